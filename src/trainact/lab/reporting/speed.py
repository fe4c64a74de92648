"""How fast an experiment's arms learned, in epochs and time, and how fast they ran."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from trainact.lab.records import Record
from trainact.lab.summary import BASELINE, by_arm, summarise_arms


@dataclass(frozen=True)
class Speed:
    """How fast an arm learned and ran.

    Attributes:
        epochs_to_target: first epoch at which the mean over seeds reaches vanilla's
            final mean; None if never, and without vanilla.
        epochs_speed_up: vanilla's such epoch divided by this.
        seconds_to_target: training up to the end of that epoch, median over runs.
        time_speed_up: vanilla's such time divided by this; None too where the
            experiment's runs come from different machines.
        train_seconds: of an epoch; median over epochs and runs.
        eval_seconds: of testing after an epoch, likewise; None where not recorded.
        compile_seconds: median over runs; None where nothing was compiled.
        images_per_second: in training, at the median epoch; None where the number of
            images was not recorded.
    """

    epochs_to_target: int | None
    epochs_speed_up: float | None
    seconds_to_target: float | None
    time_speed_up: float | None
    train_seconds: float
    eval_seconds: float | None
    compile_seconds: float | None
    images_per_second: float | None


def speeds(records: Sequence[Record]) -> dict[str, Speed]:
    """Work out the speed of every arm.

    Args:
        records: of one experiment.

    Returns:
        Name of the arm -> its speed.
    """
    runs = by_arm(records)
    arms = {arm.label: arm for arm in summarise_arms(records)}
    seconds = {
        label: _seconds_until(own, arms[label].epochs_to_baseline)
        for label, own in runs.items()
    }
    is_comparable = len({machine(record) for record in records}) == 1
    baseline_seconds = seconds.get(BASELINE) if is_comparable else None
    return {
        label: Speed(
            epochs_to_target=arms[label].epochs_to_baseline,
            epochs_speed_up=arms[label].speed_up,
            seconds_to_target=seconds[label],
            time_speed_up=_ratio(baseline_seconds, seconds[label]),
            train_seconds=arms[label].seconds_per_epoch,
            eval_seconds=_median([s for run in own for s in run.eval_seconds]),
            compile_seconds=_median([run.compile_seconds for run in own]) or None,
            images_per_second=_ratio(
                _images_per_epoch(own[0]), arms[label].seconds_per_epoch
            ),
        )
        for label, own in runs.items()
    }


def machine(record: Record) -> str:
    """Name what a run's times depend on.

    Args:
        record: of the run.

    Returns:
        For example ``NVIDIA H100, 16 threads, resident data``.
    """
    # the first schema did not say which pipeline it was
    pipeline = f", {record.pipeline} data" if record.schema > 1 else ""
    return f"{record.device}, {record.threads} threads{pipeline}"


def _seconds_until(runs: Sequence[Record], epoch: int | None) -> float | None:
    """Training time up to the end of an epoch; runs lost before it have none."""
    if epoch is None:
        return None
    sums = [sum(run.seconds[:epoch]) for run in runs if len(run.seconds) >= epoch]
    return _median(sums)


def _images_per_epoch(record: Record) -> int:
    count = record.data["train"]
    batch_size = record.config.batch_size
    return count - count % batch_size if record.config.drop_last else count


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _ratio(value: float | None, by: float | None) -> float | None:
    return value / by if value and by else None
