"""Results as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trainact.lab.reporting.across import ModelRow, ModelTable, Verdict
from trainact.lab.reporting.arms import ArmResult
from trainact.lab.reporting.cells import (
    NONE,
    Cell,
    Column,
    Row,
    Table,
    amount,
    probability,
    signed,
    spread,
    times,
)
from trainact.lab.reporting.figures import NAMES, metric_name
from trainact.lab.reporting.lengths import LengthLine, LengthStudy
from trainact.lab.reporting.scores import Metric, PairedTest, Score
from trainact.lab.reporting.sections import Section
from trainact.lab.reporting.study import Chapter

_METRICS: tuple[Metric, ...] = ("accuracy", "top5")


def overview_table(chapters: Sequence[Chapter]) -> Table:
    """Make the table of contents: a row per section, with its outcome in brief.

    Args:
        chapters: of the page.

    Returns:
        The table.
    """
    columns = (
        Column("experiment"),
        Column("epochs"),
        Column("runs"),
        Column("vanilla (%)", is_spread=True),
        Column("others minus vanilla"),
    )
    rows: list[Row] = []
    for chapter in chapters:
        rows.append(Row((chapter.title,), link=chapter.slug, kind="heading"))
        rows += map(_overview_row, chapter.sections)
    return Table("", columns, tuple(rows))


def _overview_row(section: Section) -> Row:
    baseline = section.baseline
    gains = [arm.top1.gain for arm in section.arms if arm.top1.gain is not None]
    low, high = signed(min(gains, default=None)), signed(max(gains, default=None))
    return Row(
        (
            section.title,
            str(section.view.experiment.setting.epochs),
            str(len(section.view.records)),
            spread(baseline and (baseline.top1.mean, baseline.top1.std)),
            low if low == high else f"{low} to {high}",
        ),
        link=section.slug,
    )


def score_tables(section: Section, colours: Mapping[str, str]) -> list[Table]:
    """Make the tables of final accuracies, beside the paper's.

    Args:
        section: an experiment.
        colours: of its arms.

    Returns:
        One table for top-1; one for top-5 where it was measured.
    """
    return [
        _score_table(section, metric, colours)
        for metric in _METRICS
        if any(arm.score(metric) for arm in section.arms)
    ]


def _score_table(section: Section, metric: Metric, colours: Mapping[str, str]) -> Table:
    scores = [(arm, s) for arm in section.arms if (s := arm.score(metric))]
    columns = [
        Column("arm"),
        Column("runs"),
        Column("mean ± std", "ours", is_spread=True),
        Column("minus vanilla", "ours"),
        Column("pairs", "paired t-test"),
        Column("t", "paired t-test"),
        Column("p", "paired t-test"),
    ]
    if has_paper := any(score.paper for _, score in scores):
        columns.append(Column("mean ± std", section.view.paper_label, True))
    if is_compared := has_paper and section.view.is_own:
        columns.append(Column("ours minus paper", section.view.paper_label))
    rows = [
        Row(
            (
                *_score_cells(arm, score),
                *((spread(score.paper),) if has_paper else ()),
                *((signed(score.over_paper),) if is_compared else ()),
            ),
            colour=colours[arm.label],
        )
        for arm, score in scores
    ]
    caption = f"Final {metric_name(section, metric)} (%)"
    return Table(caption, tuple(columns), tuple(rows))


def _score_cells(arm: ArmResult, score: Score) -> tuple[Cell, ...]:
    return (
        arm.label,
        _num_runs(arm),
        spread((score.mean, score.std)),
        signed(score.gain),
        *_test_cells(score.test),
    )


def _num_runs(arm: ArmResult) -> str:
    return f"{arm.num_runs} ({len(arm.lost)} lost)" if arm.lost else str(arm.num_runs)


def _test_cells(test: PairedTest | None) -> tuple[Cell, ...]:
    if test is None:
        return (NONE,) * 3
    return str(test.num_pairs), signed(test.t), probability(test.p)


def speed_table(section: Section, colours: Mapping[str, str]) -> Table:
    """Make the table of epochs and times.

    Args:
        section: an experiment.
        colours: of its arms.

    Returns:
        The table.
    """
    columns = (
        Column("arm"),
        Column("epochs", "to vanilla's final mean"),
        Column("speed-up", "to vanilla's final mean"),
        Column("seconds", "to vanilla's final mean"),
        Column("speed-up", "to vanilla's final mean"),
        Column("training", "seconds per epoch"),
        Column("testing", "seconds per epoch"),
        Column("compilation (s)"),
        Column("images/s"),
    )
    rows = [Row(_speed_cells(arm), colour=colours[arm.label]) for arm in section.arms]
    notes = [
        f"Lost: {arm.label}, seed {lost.seed}: the loss stopped being finite in epoch "
        f"{lost.epoch}" + ("." if lost.step is None else f", step {lost.step:,}.")
        for arm in section.arms
        for lost in arm.lost
    ]
    return Table("Speed", columns, tuple(rows), tuple(notes))


def _speed_cells(arm: ArmResult) -> tuple[Cell, ...]:
    speed = arm.speed
    epochs = speed.epochs_to_target
    return (
        arm.label,
        NONE if epochs is None else str(epochs),
        times(speed.epochs_speed_up),
        amount(speed.seconds_to_target),
        times(speed.time_speed_up),
        amount(speed.train_seconds),
        amount(speed.eval_seconds),
        amount(speed.compile_seconds),
        amount(speed.images_per_second),
    )


def lengths_table(study: LengthStudy, colours: Mapping[str, str]) -> Table:
    """Make the table of accuracies against length.

    Args:
        study: a family of recipes.
        colours: of its arms.

    Returns:
        The table.
    """
    columns = [
        Column("arm"),
        *(Column(f"{epochs} epochs", is_spread=True) for epochs in study.epochs),
    ]
    rows = [
        Row((line.label, *_length_cells(line, study)), colour=colours[line.label])
        for line in study.lines
    ]
    return Table("Final top-1 accuracy (%)", tuple(columns), tuple(rows))


def _length_cells(line: LengthLine, study: LengthStudy) -> list[Cell]:
    found = {point.epochs: (point.mean, point.std) for point in line.points}
    return [spread(found.get(epochs)) for epochs in study.epochs]


def models_table(table: ModelTable) -> Table:
    """Make the table over models.

    Args:
        table: a family of recipes.

    Returns:
        The table, with means and tests below.
    """
    columns = (
        Column("model"),
        *_model_columns("ours", table.labels),
        *_model_columns(table.paper_label, table.paper_labels),
    )
    notes = [_verdict_text("Ours", table.ours)]
    if table.paper:
        notes.append(_verdict_text("Paper, these models", table.paper))
    if table.paper_all and table.paper_all != table.paper:
        notes.append(_verdict_text("Paper, all models", table.paper_all))
    return Table(
        f"{NAMES[table.metric].capitalize()} accuracy (%) over models",
        columns,
        (*map(_model_row, table.rows), _total_row(table)),
        tuple(notes),
    )


def _model_columns(group: str, labels: tuple[str, str]) -> list[Column]:
    spreads = [Column(label, group, is_spread=True) for label in labels]
    return [*spreads, Column("difference", group)]


def _model_row(row: ModelRow) -> Row:
    return Row(
        (
            row.model,
            spread(row.baseline),
            spread(row.arm),
            signed(row.gain),
            spread(row.paper_baseline),
            spread(row.paper_arm),
            signed(row.paper_gain),
        ),
        link=row.slug,
    )


def _total_row(table: ModelTable) -> Row:
    paper = table.paper
    return Row(
        (
            "mean gain",
            ("", ""),
            ("", ""),
            signed(table.ours.mean_gain),
            ("", ""),
            ("", ""),
            signed(paper.mean_gain if paper else None),
        ),
        kind="total",
    )


def _verdict_text(who: str, verdict: Verdict) -> str:
    test = verdict.test
    equals = "" if probability(test.p).startswith("<") else "= "
    return (
        f"{who}: mean gain {signed(verdict.mean_gain, 3)}, higher in {verdict.wins} of "
        f"{test.num_pairs}, paired t-test over models t = {signed(test.t)}, "
        f"p {equals}{probability(test.p)}."
    )
