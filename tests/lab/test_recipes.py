"""Recipes say what the paper says; `trainact recipes` and the docs say what they do."""

from __future__ import annotations

import csv
import json
from collections import Counter, defaultdict
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from tests.lab.conftest import make_record
from trainact.lab.config import Setting, setting_hash
from trainact.lab.data.augment import PIPELINES
from trainact.lab.data.normalise import STATISTICS
from trainact.lab.data.photographs import is_photographic
from trainact.lab.errors import LabError
from trainact.lab.losses import LOSSES, check_smoothing
from trainact.lab.methods import METHODS as KNOWN_METHODS
from trainact.lab.models import resolve_model
from trainact.lab.optimizers import DECAYS
from trainact.lab.recipe import Expected, Recipe
from trainact.lab.recipe_list import COLUMNS, main, rows
from trainact.lab.recipe_list_options import RecipesOptions
from trainact.lab.recipe_status import choices_section, recipes_section
from trainact.lab.recipes import RECIPES, STUDIES, find_recipes, header
from trainact.lab.recipes.optimizer_study import RATES
from trainact.lab.recipes.paper_table import PAPER_TABLE
from trainact.lab.records import Record
from trainact.lab.schedules import SCHEDULES

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "paper" / "table1.csv"
ALL = list(RECIPES.values())
LENGTHS = (100, 200, 400, 800)
DATA = {
    *("cifar10", "cifar100", "imagenet", "flowers102", "stanford-cars", "voc2007"),
}
# Of a setting, since there are experiments beyond CIFAR: no part of older hashes.
NEW = {
    *("task", "loss", "decay", "warmup_lr", "drop_path", "mixup", "cutmix"),
    *("mix_group", "repeats", "eval_crop", "pretrained"),
}
METHODS = {"vanilla", "tract", "tract+sgd", "patchnorm", "dual-patchnorm"}
AUGMENTS = {"crop-flip", "crop-flip-rotate", "crop-flip-autoaugment"}


def family(recipe: Recipe) -> str:
    return recipe.name.partition("-")[0]


LATER = {"fig5", "fig11", "fig12", "table3", "table4", "table5"}
CIFAR = [recipe for recipe in ALL if family(recipe) not in LATER]


def setting(name: str) -> Setting:
    return RECIPES[name].setting


def lams(name: str) -> list[float | None]:
    return [arm.lam for arm in RECIPES[name].arms if arm.method == "tract"]


# What recipes there are.


def test_counts() -> None:
    counts = Counter(map(family, ALL))
    assert counts == {
        "fig3": 8,
        "fig4": 4,
        "fig5": 3,
        "fig6": 1,
        "fig7": 4,
        "fig8": 2,
        "fig9": 4,
        "fig10": 8,
        "fig11": 3,
        "fig12": 3,
        "table1": 36,
        "table3": 6,
        "table4": 4,
        "table5": 1,
        "table7": 36,
    }
    assert len(CIFAR) == 103
    assert len(ALL) == 123


def test_settings_are_shared_only_where_the_paper_means_the_same_runs() -> None:
    sharing = defaultdict(set)
    for recipe in ALL:
        sharing[recipe.setting].add(recipe.name)
    several = [names for names in sharing.values() if len(names) > 1]
    wanted: list[set[str]] = []
    for length in LENGTHS:
        wanted.append({f"fig3-adam-{length}", f"fig9-{length}"})
        wanted.append({f"fig4-{length}", f"fig7-{length}"})
    wanted[3].add("fig6")
    assert sorted(map(sorted, several)) == sorted(map(sorted, wanted))


@pytest.mark.parametrize(
    ("one", "other", "arms"),
    [
        ("fig4-200", "fig6", {"vanilla", "tract λ=0.05", "tract λ=0.1", "tract λ=0.2"}),
        ("fig4-200", "fig7-200", {arm.name for arm in RECIPES["fig4-200"].arms}),
        ("fig3-adam-800", "fig9-800", {a.name for a in RECIPES["fig3-adam-800"].arms}),
    ],
)
def test_shared_arms_are_the_same_runs(one: str, other: str, arms: set[str]) -> None:
    first, second = (
        {
            arm.name: RECIPES[name].run(arm, 3, "cpu").key("hash")
            for arm in RECIPES[name].arms
        }
        for name in (one, other)
    )
    assert first.keys() & second.keys() == arms
    assert all(first[arm] == second[arm] for arm in arms)


# That each is sound.


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_fields(recipe: Recipe) -> None:
    given = recipe.setting
    assert RECIPES[recipe.name] is recipe
    assert given.data in DATA
    assert given.normalise in STATISTICS
    assert given.schedule in SCHEDULES
    assert given.loss in LOSSES
    assert given.decay in DECAYS
    assert given.limit is None
    check_smoothing(given.loss, given.label_smoothing)
    assert {arm.method for arm in recipe.arms} <= METHODS
    assert len({arm.name for arm in recipe.arms}) == len(recipe.arms)
    for arm in recipe.arms:
        assert (arm.lam is not None) == arm.method.startswith("tract")
    assert recipe.arms[0].name == "vanilla" or family(recipe) == "table7"
    assert list(given.milestones) == sorted(m for m in given.milestones if m > 0)
    assert given.warmup_epochs < min((given.epochs, *given.milestones))


@pytest.mark.parametrize("recipe", CIFAR, ids=lambda recipe: recipe.name)
def test_fields_of_cifar(recipe: Recipe) -> None:
    given = recipe.setting
    assert given.data in {"cifar10", "cifar100"}
    assert given.model.startswith("cifar:")
    assert given.augment in AUGMENTS
    assert given.precision == "32"
    assert (given.batch_size, given.layer) == (128, None)
    assert recipe.seeds == (0, 1, 2, 3, 4)
    assert (recipe.setting.begins_with, recipe.keep_weights) == (None, False)
    assert not NEW & given.identity().keys()


@pytest.mark.parametrize(
    "recipe",
    [recipe for recipe in ALL if recipe.setting.task == "classification"],
    ids=lambda recipe: recipe.name,
)
def test_what_is_named_exists(recipe: Recipe) -> None:
    given = recipe.setting
    assert resolve_model(given.model) == given.model
    assert given.augment in PIPELINES or is_photographic(given.augment)
    assert {arm.method for arm in recipe.arms} <= set(KNOWN_METHODS)


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_words(recipe: Recipe) -> None:
    for part in ("Source: ", "Hardware: ", "Numbers: "):
        assert part in header(recipe)
    assert "Args" not in header(recipe)
    assert "Returns" not in header(recipe)
    sentences = (recipe.claim, *recipe.unverified, *recipe.deviations)
    assert all(s.endswith(".") and "  " not in s and s.strip() == s for s in sentences)
    assert len(set(sentences)) == len(sentences)
    assert recipe.hours is None, "nobody has measured one"


TUNED_STUDIES = [
    recipe
    for recipe in STUDIES.values()
    if recipe.name.startswith(("first-layer-", "optimizers-"))
]


@pytest.mark.parametrize("recipe", TUNED_STUDIES, ids=lambda recipe: recipe.name)
def test_tuned_studies(recipe: Recipe) -> None:
    """Every arm has the same learning rates, and one λ."""
    given = recipe.setting
    family, *problem, optimizer, lr = recipe.name.split("-")
    assert (given.optimizer, f"{given.lr:g}") == (optimizer, lr)
    if family == "optimizers":
        assert problem == [given.data, str(given.epochs)]
    else:
        model = given.model.rpartition(":")[2]
        assert ["first", "layer", *model.split("-")] == [family, *problem]
    rates = find_recipes([recipe.name.removesuffix(f"-{lr}")])
    assert {r.setting.lr for r in rates} == set(RATES[optimizer])
    assert {r.arms for r in rates} == {recipe.arms}
    assert {arm.lam for arm in recipe.arms} == {None, 0.1}


@pytest.mark.parametrize("pixels", ["0-1", "0-255", "cifar10"])
def test_damping_studies(pixels: str) -> None:
    recipe = STUDIES[f"damping-{pixels}"]
    assert recipe.setting.normalise == pixels
    assert {arm.lam for arm in recipe.arms} == {None, 0.01, 0.1, 1.0}


@pytest.mark.parametrize("recipe", STUDIES.values(), ids=lambda recipe: recipe.name)
def test_studies(recipe: Recipe) -> None:
    """What is not the paper's: named after what differs, the baseline first."""
    assert find_recipes([recipe.name]) == [recipe]
    assert recipe.arms[0].name == "vanilla"
    for arm in recipe.arms:
        assert (arm.lam is not None) == KNOWN_METHODS[arm.method].uses_lam
    for part in ("Source: ", "Hardware: ", "Numbers: "):
        assert part in header(recipe)


def test_frozen_and_hashable() -> None:
    assert len(set(ALL)) == len(ALL)
    with pytest.raises(FrozenInstanceError):
        ALL[0].name = "other"


def test_recipes_of_one_artefact_have_the_same_sentences() -> None:
    """The docs print them once for each artefact."""
    found = defaultdict(set)
    for recipe in ALL:
        found[recipe.artefact].add((recipe.unverified, recipe.deviations))
    assert {artefact: len(kinds) for artefact, kinds in found.items()} == dict.fromkeys(
        found, 1
    )


# What the paper says.


@pytest.mark.parametrize(
    ("name", "lr"),
    [
        *((f"{figure}-sgd-{n}", 0.08) for figure in ("fig3", "fig10") for n in LENGTHS),
        ("fig3-adam-100", 0.01),
        ("fig3-adam-200", 0.01),
        ("fig3-adam-400", 0.001),
        ("fig3-adam-800", 0.001),
        ("fig10-adam-200", 0.01),
        ("fig10-adam-400", 0.001),
        ("fig4-100", 1e-3),
        ("fig4-200", 10**-3.2),
        ("fig4-400", 10**-3.5),
        ("fig4-800", 10**-3.5),
        ("fig6", 6.309573444801933e-4),
        ("fig8-0-255", 6.309573444801933e-4),
        ("fig9-100", 0.01),
        ("table1-vgg16", 0.1),
        ("table7-vgg16", 0.1),
        *((f"{figure}-30", 0.141) for figure in ("fig5", "fig11", "fig12")),
        *((f"{figure}-60", 0.1) for figure in ("fig5", "fig11", "fig12")),
        *((f"{figure}-90", 0.1) for figure in ("fig5", "fig11", "fig12")),
        ("table3-vit-s-400", 4e-3),
        ("table3-vit-s-800", 4e-3),
        ("table3-vit-b-400", 3e-3),
        ("table3-vit-b-400-finetune", 3e-4),
        ("table4-flowers102", 0.01),
    ],
)
def test_learning_rates(name: str, lr: float) -> None:
    assert setting(name).lr == pytest.approx(lr, rel=1e-14)


def test_lams() -> None:
    usual = [0.05, 0.1, 0.2]
    for name in ("fig3-sgd-100", "fig4-400", "fig7-100", "fig9-800", "fig10-adam-200"):
        assert lams(name) == usual
    doubling = [0.00625 * 2**k for k in range(9)]
    assert lams("fig6") == pytest.approx(doubling)
    assert lams("fig8-0-1") == lams("fig8-0-255") == pytest.approx(doubling[:8])
    assert lams("table1-resnet50") == lams("table7-resnet50") == [0.1]
    for name in ("fig5-30", "fig11-60", "fig12-90"):
        assert lams(name) == usual
    assert lams("table3-vit-s-400") == lams("table3-vit-b-400-finetune") == [0.1]
    assert lams("table3-vit-s-800") == lams("table3-vit-s-800-finetune") == [0.2]
    assert lams("table4-cifar10") == [0.2]


def test_the_resnets_setting() -> None:
    for name, optimizer in (("fig3-sgd-100", "sgd"), ("fig3-adam-400", "adam")):
        given = setting(name)
        assert given.optimizer == optimizer
        assert given.data == "cifar10"
        assert given.model == "cifar:resnet18-maxpool"
        assert (given.momentum, given.weight_decay) == (0.9, 0)
        assert (given.label_smoothing, given.drop_last) == (0, True)
        assert (given.augment, given.normalise) == ("crop-flip", "cifar10-released")
        assert (given.schedule, given.warmup_epochs) == ("cosine", 0)


def test_the_vits_setting() -> None:
    given = setting("fig4-800")
    assert (given.data, given.model) == ("cifar10", "cifar:vit")
    assert (given.optimizer, given.weight_decay) == ("adam", 5e-5)
    assert given.schedule == "cosine-epochs"
    assert (given.warmup_epochs, given.min_lr) == (5, 1e-5)
    assert not given.drop_last
    assert given.augment == "crop-flip-autoaugment"
    assert given.normalise == "cifar10"


def test_label_smoothing_is_that_of_the_vits_source() -> None:
    logits_1K = torch.randn(1, 10, dtype=torch.float64)
    wanted_K = torch.full((10,), 0.1 / 9, dtype=torch.float64)
    wanted_K[3] = 0.9
    loss = cross_entropy(
        logits_1K,
        torch.tensor([3]),
        label_smoothing=setting("fig4-200").label_smoothing,
    )
    torch.testing.assert_close(loss, -(wanted_K * logits_1K.log_softmax(1)).sum())


def test_the_tables_setting() -> None:
    given = setting("table1-wideresnet")
    assert (given.data, given.model) == ("cifar100", "cifar:wideresnet")
    assert (given.optimizer, given.momentum) == ("sgd", 0.9)
    assert given.weight_decay == 5e-4
    assert (given.epochs, given.warmup_epochs) == (200, 1)
    assert (given.schedule, given.gamma) == ("steps", 0.2)
    assert given.milestones == (59, 119, 159)
    assert (given.augment, given.normalise) == ("crop-flip-rotate", "cifar100")
    assert not given.drop_last


def changed(one: str, other: str) -> dict[str, Any]:
    first, second = setting(one).to_json(), setting(other).to_json()
    return {name: second[name] for name in first if first[name] != second[name]}


@pytest.mark.parametrize(
    ("parent", "variant", "difference"),
    [
        ("fig4-200", "fig8-0-1", {"normalise": "0-1"}),
        ("fig4-200", "fig8-0-255", {"normalise": "0-255"}),
        ("fig3-sgd-100", "fig10-sgd-100", {"data": "cifar100"}),
        ("fig3-adam-800", "fig10-adam-800", {"data": "cifar100"}),
        ("fig3-adam-200", "fig9-200", {}),
        ("fig4-100", "fig7-100", {}),
        (
            "table1-nasnet",
            "table7-nasnet",
            {"epochs": 133, "milestones": (39, 79, 106)},
        ),
        ("table1-nasnet", "table1-vgg11", {"model": "cifar:vgg11"}),
    ],
)
def test_a_variant_differs_in_the_experiment_alone(
    parent: str, variant: str, difference: dict[str, Any]
) -> None:
    assert changed(parent, variant) == difference
    inherited = set(RECIPES[parent].unverified) | set(RECIPES[parent].deviations)
    own = {*RECIPES[variant].unverified, *RECIPES[variant].deviations}
    assert inherited <= own


def test_arms_that_are_added() -> None:
    fig7, fig9 = RECIPES["fig7-100"].arms, RECIPES["fig9-100"].arms
    assert [arm.name for arm in fig7[4:]] == ["patchnorm", "dual-patchnorm"]
    assert [arm.name for arm in fig9[4:]] == ["tract+sgd λ=0.1"]
    assert setting("fig9-100").first_layer_lr == 0.08


# The numbers of the tables.

GROUPS = ("vanilla", "tract", "tract_133")
# The last row of Table 6.
AVERAGE = {
    "vanilla": Expected(75.90, 0.26, 93.19, 0.15),
    "tract": Expected(76.39, 0.24, 93.42, 0.14),
    "tract_133": Expected(75.94, 0.25, 93.34, 0.15),
}
FIELDS = [field.name for field in fields(Expected)]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("field", FIELDS)
def test_averages_are_those_that_the_paper_prints(group: str, field: str) -> None:
    values = [getattr(getattr(row, group), field) for row in PAPER_TABLE.values()]
    printed = getattr(AVERAGE[group], field)
    assert len(values) == 36
    assert sum(values) / 36 == pytest.approx(printed, abs=0.0051)


def test_wins_are_those_that_the_paper_counts() -> None:
    table = PAPER_TABLE.values()
    assert sum(row.tract.top1 > row.vanilla.top1 for row in table) == 33
    assert sum((row.tract.top5 or 0) > (row.vanilla.top5 or 0) for row in table) == 34


def test_spot_values() -> None:
    vanilla, tract = RECIPES["table1-resnet50"].arms
    assert vanilla.expected == Expected(78.20, 0.35, 94.28, 0.09)
    assert tract.expected == Expected(79.07, 0.18, 94.67, 0.07)
    (short,) = RECIPES["table7-stochasticdepth101"].arms
    assert short.expected == Expected(77.73, 0.20, 94.55, 0.02)
    assert PAPER_TABLE["inceptionresnetv2"].title == "Inception-RN-v2"
    assert PAPER_TABLE["wideresnet"].vanilla == Expected(78.93, 0.07, 94.42, 0.09)


def test_every_cell() -> None:
    if not SHARED.exists():
        pytest.skip(f"no {SHARED.name} of the paper beside this checkout")
    with SHARED.open(newline="") as file:
        _, *lines = csv.reader(file)
    wanted = {title: [float(v) for v in values] for title, *values in lines}
    found = {
        row.title: [getattr(getattr(row, g), f) for g in GROUPS for f in FIELDS]
        for row in PAPER_TABLE.values()
    }
    assert found == wanted


def test_only_the_tables_have_numbers() -> None:
    """All of their arms; of Figure 5, those two that are in Table 2; no others."""
    for recipe in ALL:
        has = [arm.expected is not None for arm in recipe.arms]
        if family(recipe) == "fig5":
            assert has == [True, False, True, False]
        else:
            is_pretraining = (
                family(recipe) == "table3" and recipe.setting.begins_with is None
            )
            in_table = family(recipe).startswith("table") and not is_pretraining
            assert set(has) == {in_table}


# Finding them.


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (["fig6"], 1),
        (["fig3"], 8),
        (["fig3-sgd"], 4),
        (["fig3-sgd-100"], 1),
        (["fig10"], 8),
        (["fig8-0"], 2),
        (["table1"], 36),
        (["fig5"], 3),
        (["table3"], 6),
        (["table3-vit-s"], 4),
        (["table3-vit-s-400"], 1),
        (["table3-vit-s-400-finetune"], 1),
        (["table4-cifar10"], 1),
        (["fig3", "fig3-sgd-100", "fig6"], 9),
        ([], 0),
    ],
)
def test_find(names: list[str], count: int) -> None:
    found = find_recipes(names)
    assert len({recipe.name for recipe in found}) == len(found) == count


def test_a_beginning_ends_at_a_hyphen() -> None:
    """Else 'fig3-sgd-80' or 'table1-resnet1' would quietly be something."""
    for name in ("fig", "fig1", "fig3-", "table1-resnet", "table1-resnet1", ""):
        with pytest.raises(LabError, match="is not known"):
            find_recipes([name])


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("fgi3", "fig3"),
        ("fig3-sdg-100", "fig3-sgd-100"),
        ("table1-resnet5", "resnet50"),
    ],
)
def test_a_slip_gets_a_hint(typed: str, meant: str) -> None:
    with pytest.raises(LabError, match=rf"did you mean .*{meant}'") as caught:
        find_recipes([typed])
    assert "\n" not in str(caught.value)


# `trainact recipes`.


def show(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    assert main(RecipesOptions(*arguments)) == 0
    return capsys.readouterr().out


def test_the_list_has_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    out = show(capsys)
    for recipe in ALL:
        if family(recipe) not in {"table1", "table7"}:
            assert f" {recipe.name} " in out
    assert out.count("-MODEL") == 2
    assert "table1-MODEL" in out
    assert "36 models" in out
    assert all(column in out for column in COLUMNS)


def test_a_beginning_lists_each_of_its_recipes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = show(capsys, "table7")
    assert all(f" table7-{model} " in out for model in PAPER_TABLE)
    assert "fig3" not in out


def test_a_row() -> None:
    (row,) = rows([RECIPES["fig9-100"]], together=True)
    assert dict(zip(COLUMNS, row, strict=True)) == {
        "name": "fig9-100",
        "artefact": "Figure 9",
        "data": "cifar10",
        "model": "cifar:resnet18-maxpool",
        "arms": "vanilla, tract x 3, tract+sgd",
        "epochs": "100",
        "seeds": "5",
        "runs": "25",
    }


@pytest.mark.parametrize(
    "name",
    [
        *("fig9-100", "fig6", "table1-resnet50", "fig4-800", "fig5-90", "table5"),
        *("table3-vit-b-400", "table3-vit-b-400-finetune", "table4-flowers102"),
    ],
)
def test_one_recipe_whole(capsys: pytest.CaptureFixture[str], name: str) -> None:
    recipe = RECIPES[name]
    out = show(capsys, name)
    assert header(recipe) in out
    assert all(len(line) <= 88 for line in out.splitlines())
    flat = " ".join(out.split())
    for sentence in (recipe.claim, *recipe.unverified, *recipe.deviations):
        assert " ".join(sentence.split()) in flat
    for field in fields(Setting):
        assert f"\n  {field.name} " in out
    for arm in recipe.arms:
        assert f"\n  {arm.name}" in out
    assert f"trainact run {name}\n" in out
    assert "Time: not measured" in out


def test_values_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    out = show(capsys, "table1-resnet50")
    assert "vanilla      paper: 78.20 ± 0.35 %, top-5 94.28 ± 0.09 %\n" in out
    assert "  milestones      59 119 159\n" in out
    assert "  drop_last       no\n" in out
    assert "  limit           -\n" in out
    assert "  first_layer_lr  0.08 (where SGD" in show(capsys, "fig9-100")


def test_numbers_without_a_std_and_weights_to_begin_with(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = show(capsys, "table3-vit-s-400-finetune")
    assert "tract λ=0.1  paper: 81.50 %, top-5 95.73 %\n" in out
    assert "Begins with: the weights of table3-vit-s-400\n" in out
    out = show(capsys, "table4-cifar10")
    assert "vanilla      paper: 98.94 %\n" in out
    assert "Begins with" not in show(capsys, "table3-vit-s-400")
    (one,) = json.loads(show(capsys, "table4-cifar10", True))["recipes"]
    assert one["setting"]["begins_with"] == "table3-vit-s-800-finetune"


def test_a_time_is_shown_with_its_hardware(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = replace(RECIPES["fig6"], hours=1.5, hardware="an abacus")
    monkeypatch.setitem(RECIPES, "fig6", timed)
    assert "Time: 1.5 h for each run on an abacus" in show(capsys, "fig6")


def test_json_holds_everything(capsys: pytest.CaptureFixture[str]) -> None:
    listed = json.loads(show(capsys, None, True))["recipes"]
    assert [entry["name"] for entry in listed] == [*RECIPES, *STUDIES]
    for entry, recipe in zip(listed, [*ALL, *STUDIES.values()], strict=True):
        assert Setting.from_json(entry["setting"]) == recipe.setting
        assert entry["setting_hash"] == setting_hash(recipe.setting)
        assert [arm["name"] for arm in entry["arms"]] == [a.name for a in recipe.arms]
        for arm, own in zip(entry["arms"], recipe.arms, strict=True):
            given = arm["expected"]
            assert (None if given is None else Expected(**given)) == own.expected
        assert tuple(entry["unverified"]) == recipe.unverified
        assert entry["runs"] == len(recipe.arms) * len(recipe.seeds)
    (one,) = json.loads(show(capsys, "fig6", True))["recipes"]
    assert one["command"] == "trainact run fig6"


# The docs' table.


def record_of(
    name: str, arm: int = 0, seed: int = 0, method: str | None = None, **changes: Any
) -> tuple[str, Record]:
    """A record of a recipe, with changes to its setting."""
    recipe = RECIPES[name]
    config = replace(recipe.run(recipe.arms[arm], seed, "cpu"), **changes)
    if method is not None:
        config = replace(config, method=method, lam=None)
    record = make_record(config, recipe=name, recipe_hash=setting_hash(config.setting))
    return "records/some.jsonl", record


def lines_about(paper: str, *records: tuple[str, Record]) -> list[str]:
    lines = recipes_section(records)
    return [line for line in lines if line.startswith(f"| {paper} |")]


def test_without_records_every_artefact_is_a_row() -> None:
    lines = recipes_section([])
    assert len(lines) == 2 + 15
    assert lines[2] == (
        "| Figure 3 | `fig3-*` (8) | built and smoked in the tests |  |  |  |  |"
    )
    assert "| Figure 5, Table 2 | `fig5-*` (3) |" in lines[4]
    assert "| `fig6` |" in lines[5]


def test_run_in_full() -> None:
    recipe = RECIPES["fig6"]
    records = [record_of("fig6", arm, s) for arm in range(10) for s in recipe.seeds]
    (line,) = lines_about("Figure 6", *records)
    assert "| `fig6` | run in full | vanilla: 5 seeds, tract λ=0.00625: 5" in line
    assert line.endswith("| `records/some.jsonl` |")
    (line,) = lines_about("Figure 6", *records[:-1])
    assert "| run at full length, 49 of 50 runs |" in line


def test_run_in_part() -> None:
    records = [record_of("fig3-sgd-100", arm, 1) for arm in (0, 2)]
    full, rest = lines_about("Figure 3", *records)
    assert "| `fig3-sgd-100` | run at full length, 2 of 20 runs |" in full
    assert "| vanilla: 1 seed, tract λ=0.1: 1 seed |" in full
    assert "| the other 7 of `fig3-*` | built and smoked" in rest


def test_run_at_reduced_length_says_what_differs() -> None:
    short = record_of("fig4-100", epochs=5, warmup_epochs=0, limit=10000)
    full = record_of("fig4-100", seed=1)
    reduced, whole, _ = lines_about("Figure 4", short, full)
    assert "| run at reduced length: 5 of 100 epochs, 10,000 images |" in reduced
    assert "| run at full length, 1 of 20 runs |" in whole
    again = record_of("fig4-100", data="imagefolder:x", precision="bf16-mixed")
    changed, _ = lines_about("Figure 4", again)
    assert "| run with data imagefolder:x, precision bf16-mixed |" in changed


def test_milestones_count_as_a_change_only_of_themselves() -> None:
    one = record_of("table1-vgg11", epochs=20, milestones=(6, 12, 16))
    assert "reduced length: 20 of 200 epochs |" in lines_about("Tables 1 and 6", one)[0]
    other = record_of("table1-vgg11", milestones=(1,))
    assert "run with milestones (1,) |" in lines_about("Tables 1 and 6", other)[0]


def test_gains_are_of_pairs_of_seeds_beside_the_paper_s() -> None:
    def run(arm: int, seed: int, accuracy: float) -> tuple[str, Record]:
        path, record = record_of("table1-vgg11", arm, seed)
        return path, replace(record, accuracy=(0.1, accuracy))

    vanilla = [run(0, seed, 0.5) for seed in (0, 1)]
    trained = [run(1, 0, 0.52), run(1, 1, 0.53), run(1, 2, 0.9)]
    first, rest = lines_about("Tables 1 and 6", *vanilla, *trained)
    # Table 1: 69.66 % with TrAct, 68.44 % without.
    assert "| +2.50 | +1.22 |" in first
    others = [r for n, r in RECIPES.items() if n.startswith("table1-")]
    gains = [
        arms[1].expected.top1 - arms[0].expected.top1
        for arms in (recipe.arms for recipe in others)
        if arms[0].expected.top1 != 68.44
    ]
    assert f"|  | {sum(gains) / 35:+.2f} |  |" in rest
    (alone, _) = lines_about("Tables 1 and 6", *trained)
    assert "|  | +1.22 |" in alone


def test_a_shared_run_counts_for_each_recipe() -> None:
    """A sweep trains what recipes share once, under the name of the first."""
    record = record_of("fig4-200")
    for paper in ("Figure 4", "Figure 6", "Figure 7"):
        assert "run at full length, 1 of" in lines_about(paper, record)[0]
    assert "built and smoked" in lines_about("Figure 8", record)[0]


def test_other_methods_and_earlier_versions_do_not_count() -> None:
    whitening = record_of("fig6", method="whitening")
    (line,) = lines_about("Figure 6", whitening)
    assert "| run with other methods | whitening: 1 seed |" in line
    path, record = record_of("fig6")
    (line,) = lines_about("Figure 6", (path, replace(record, recipe_hash="other")))
    assert "| run with an earlier version |" in line


def test_records_without_a_recipe_are_nobodys() -> None:
    assert recipes_section([("records/some.jsonl", make_record())]) == recipes_section(
        []
    )


def test_the_docs_list_every_choice() -> None:
    text = (ROOT / "docs" / "reproduction.md").read_text(encoding="utf-8")
    begin, end = "<!-- choices: begin -->\n", "\n<!-- choices: end -->"
    assert text.partition(begin)[2].partition(end)[0] == "\n".join(choices_section())
    for recipe in ALL:
        for sentence in (*recipe.unverified, *recipe.deviations):
            assert text.count(sentence) == 1
    assert "<!-- recipes: begin -->\n| paper | recipe | status |" in text
