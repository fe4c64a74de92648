"""The tables of the first-layer benchmark and of the extensions, from their records."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from scipy import stats

from benchmarks.treatments import SHAPE
from trainact.lab.config import arm_name
from trainact.lab.methods import METHODS
from trainact.lab.recipes.first_layer_study import PIXELS
from trainact.lab.recipes.optimizer_study import APART_ARMS, LAM, PAIRED_ARMS
from trainact.lab.records import Record
from trainact.lab.summary import BASELINE, summarise_arms
from trainact.lab.table_text import markdown
from trainact.lab.tuning import TUNING_SEED, final_accuracy

_PAIRED = tuple(arm.method for arm in (*PAIRED_ARMS, *APART_ARMS))
_EXTENDED = (BASELINE, "tract", *(m for m in METHODS if m.startswith("tract-")))
_TRACT = arm_name("tract", LAM)
# What a glance is for.
_FOREMOST = (
    *("tract", "whitening", "whitening+tract", "patchnorm", "dual-patchnorm", "zca"),
    *("kfac", "tract-all"),
)
_DAMPED = (BASELINE, "tract", "tract-relative", "tract-scaled", "tract-joint")
# Learning rate -> seed -> run, of one arm.
Tuning = dict[float, dict[int, Record]]
Scores = dict[int, float]
_CONDITIONS = ("model", "data", "epochs", "optimizer", "lr", "initial")
# (network, optimizer, method) -> time of a step over vanilla's.
Costs = Mapping[tuple[str, str, str], float]


def optimizer_section(records: Iterable[Record]) -> list[str]:
    """Compare, for each optimizer and length, the arms at every learning rate.

    Args:
        records: of the studies.

    Returns:
        Lines of Markdown.
    """
    lines: list[str] = []
    for members in _groups(records):
        tunings = _tunings(r for r in members if r.config.method in _PAIRED)
        if BASELINE in tunings and len(tunings) > 1:
            lines += [_heading(members), "", *_rates_table(tunings), ""]
    return lines


def overview_section(records: Iterable[Record]) -> list[str]:
    """Say in a row for each problem what the foremost treatments gain over vanilla.

    Args:
        records: of the studies.

    Returns:
        Lines of Markdown.
    """
    rows: list[tuple[str, ...]] = []
    for members in _groups(records):
        tunings = _tuned(_tunings(members))
        if BASELINE not in tunings or len(tunings) == 1:
            continue
        best = {label: _best_runs(tuning) for label, tuning in tunings.items()}
        others = _scores(best.pop(BASELINE))
        gains = {
            runs[TUNING_SEED].config.method: _gain(_scores(runs), others)
            for runs in best.values()
        }
        cells = [gains.get(method, "") for method in _FOREMOST]
        rows.append((_problem(members), _accuracy(others), *cells))
    return markdown(["trained", BASELINE, *_FOREMOST], rows, left=1)


def treatment_section(records: Iterable[Record], costs: Costs) -> list[str]:
    """Compare all treatments of a first layer at their own best rates with vanilla.

    Args:
        records: of the studies.
        costs: time of a step over vanilla's, by network, optimizer and method.

    Returns:
        Lines of Markdown.
    """
    lines: list[str] = []
    for members in _groups(records):
        tunings = _tunings(members)
        if BASELINE in tunings and len(tunings) > 1:
            lines += [_heading(members), "", *_best_table(tunings, BASELINE, costs), ""]
    return lines


def extension_section(records: Iterable[Record], costs: Costs) -> list[str]:
    """Compare TrAct's extensions at their own best rates with TrAct.

    Args:
        records: of the studies.
        costs: as for `treatment_section`.

    Returns:
        Lines of Markdown.
    """
    lines: list[str] = []
    for members in _groups(records):
        tunings = _tunings(r for r in members if r.config.method in _EXTENDED)
        if _TRACT in tunings and len(tunings) > 2:
            lines += [_heading(members), "", *_best_table(tunings, _TRACT, costs), ""]
    return lines


def damping_section(records: Sequence[Record]) -> list[str]:
    """Compare λ as it is with a relative one on inputs of several scales.

    Args:
        records: of the studies.

    Returns:
        Lines of Markdown.
    """
    tried = {_conditions(r): r for r in records if r.config.normalise in PIXELS[:-1]}
    lines: list[str] = []
    for like, one in tried.items():
        alike = [record for record in records if _conditions(record) == like]
        heading = f"**{_problem([one])}, learning rate {one.config.lr:g}**"
        lines += [heading, "", *_damping_table(alike), ""]
    return lines


def _damping_table(records: Sequence[Record]) -> list[str]:
    found: dict[tuple[int, float], dict[str, Scores]] = {}
    names: dict[tuple[int, float], str] = {}
    for record in records:
        config = record.config
        if config.method in _DAMPED:
            place = _DAMPED.index(config.method), config.lam or 0.0
            names[place] = config.arm
            scores = found.setdefault(place, {}).setdefault(config.normalise, {})
            scores[config.seed] = record.accuracy[-1]
    rows = [
        (names[place], *(_accuracy(found[place].get(pixels, {})) for pixels in PIXELS))
        for place in sorted(found)
    ]
    headings = ["method", "inputs in [0, 1]", "inputs in [0, 255]", "standardised"]
    return markdown(headings, rows, left=1)


def _conditions(record: Record) -> tuple[object, ...]:
    return tuple(getattr(record.config, name) for name in _CONDITIONS)


def _groups(records: Iterable[Record]) -> list[list[Record]]:
    """Runs that are compared with each other, on standardised inputs with λ = 0.1."""
    groups: dict[object, list[Record]] = defaultdict(list)
    for record in records:
        config = record.config
        if config.lam not in (None, LAM) or config.normalise in PIXELS[:-1]:
            continue
        begun = config.initial is not None
        how = config.epochs, config.optimizer, config.normalise, begun
        groups[config.data, config.limit, config.model, *how].append(record)
    return list(groups.values())


def _heading(members: Sequence[Record]) -> str:
    return f"**{_problem(members)}**"


def _problem(members: Sequence[Record]) -> str:
    config = members[0].config
    images = f"{members[0].data['train']:,} images"
    how = f"{config.optimizer}, {config.epochs} epochs"
    how += "" if config.initial is None else ", from pretrained weights"
    data = config.data.rpartition("/")[2]
    return f"{config.model} on {data}, {images}: {how}"


def _tunings(records: Iterable[Record]) -> dict[str, Tuning]:
    """By arm, in the order in which the laboratory lists its methods."""
    places = {method: place for place, method in enumerate(METHODS)}
    found: dict[str, Tuning] = {}
    for record in sorted(records, key=lambda r: places[r.config.method]):
        rates = found.setdefault(record.config.arm, {})
        rates.setdefault(record.config.lr, {})[record.config.seed] = record
    return found


def _rates_table(tunings: dict[str, Tuning]) -> list[str]:
    rates = sorted({lr for tuning in tunings.values() for lr in tuning})
    headings = ["method", *(f"lr {lr:g}" for lr in rates), "gain", "seeds"]
    rows: list[tuple[str, ...]] = []
    others = _scores(_best_runs(tunings[BASELINE]))
    for arm, tuning in tunings.items():
        best = _best(tuning)
        cells = [
            _accuracy(_scores(tuning.get(lr, {})), is_best=lr == best) for lr in rates
        ]
        own = _scores(tuning[best])
        gain = _gain(own, others) if arm != BASELINE else ""
        rows.append((arm, *cells, gain, str(len(own))))
    return markdown(headings, rows, left=1)


def _best_table(tunings: dict[str, Tuning], baseline: str, costs: Costs) -> list[str]:
    """Arms that have been tuned, at their rates."""
    tuned = _tuned(tunings)
    if baseline not in tuned:
        return ["Not tuned yet."]
    best = {label: _best_runs(tuning) for label, tuning in tuned.items()}
    arms = summarise_arms(run for runs in best.values() for run in runs.values())
    others = _scores(best[baseline])
    rows: list[tuple[str, ...]] = []
    for arm in arms:
        own = _scores(best[arm.label])
        gain = _gain(own, others) if arm.label != baseline else ""
        config = best[arm.label][TUNING_SEED].config
        case = config.model, config.optimizer, config.method
        is_timed = tuple(best[arm.label][TUNING_SEED].data["shape"]) == SHAPE
        cost = costs.get(case) if is_timed else None
        step = "" if cost is None else f"{cost:.2f}"
        speed_up = arm.speed_up
        time = "" if cost is None or speed_up is None else f"{cost / speed_up:.2f}"
        epochs = str(arm.epochs_to_baseline or "never") if BASELINE in best else ""
        rates = _tried(tuned[arm.label])
        edge = " *" if arm.lr in (min(rates), max(rates)) else ""
        cells = (f"{arm.lr:g}{edge}", _accuracy(own), gain, epochs, step, time)
        rows.append((arm.label, *cells, str(len(own))))
    last = ["accuracy", "gain", "epochs", "step", "time", "seeds"]
    return markdown(["method", "lr", *last], rows, left=1)


def _tuned(tunings: dict[str, Tuning]) -> dict[str, Tuning]:
    """Arms that were tried at every rate at which any was."""
    rates = {lr for tuning in tunings.values() for lr in tuning}
    return {arm: t for arm, t in tunings.items() if _tried(t) == rates}


def _tried(tuning: Tuning) -> set[float]:
    return {lr for lr, of_seed in tuning.items() if TUNING_SEED in of_seed}


def _best(tuning: Tuning) -> float:
    """The learning rate that the first seed chose."""
    tried = _tried(tuning)
    if not tried:
        msg = f"an arm has no run with seed {TUNING_SEED}, which tunes it"
        raise ValueError(msg)
    return max(sorted(tried), key=lambda lr: final_accuracy(tuning[lr][TUNING_SEED]))


def _best_runs(tuning: Tuning) -> dict[int, Record]:
    return tuning[_best(tuning)]


def _scores(runs: dict[int, Record]) -> Scores:
    return {seed: record.accuracy[-1] for seed, record in runs.items()}


def _accuracy(of_seed: Scores, *, is_best: bool = False) -> str:
    if not of_seed:
        return ""
    percent = [100 * accuracy for accuracy in of_seed.values()]
    text = f"{statistics.fmean(percent):.2f}"
    if len(percent) > 1:
        text += f" ± {statistics.stdev(percent):.2f}"
    return f"**{text}**" if is_best else text


def _gain(own: Scores, others: Scores) -> str:
    """Mean paired difference in points and its 95 % interval, over fresh seeds.

    The seed that chose the rate is left out: it favours the arms that it chose for.
    """
    seeds = sorted((own.keys() & others.keys()) - {TUNING_SEED})
    if not seeds:
        return ""
    differences = [100 * (own[seed] - others[seed]) for seed in seeds]
    mean = f"{statistics.fmean(differences):+z.2f}"
    if len(seeds) == 1:
        return f"{mean} (one seed)"
    if max(differences) - min(differences) < 1e-3:
        return f"{mean} (in all)"  # records round: no spread to infer from
    low, high = stats.ttest_1samp(differences, 0).confidence_interval()
    return f"{mean} [{low:+.2f}, {high:+.2f}]"
