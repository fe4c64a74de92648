"""What was measured, one line of JSON for each case and mode; nothing derived."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainact.lab.bench.floor import Ceilings, Floor
from trainact.lab.bench.modes import Mode
from trainact.lab.line_file import JsonLine, LineFile, read_line

SCHEMA = 1

# How a problem begins that is not an exception.
WRONG = "WRONG"
SKIPPED = "skipped"


@dataclass(frozen=True)
class ArmResult:
    """What one arm gave.

    Attributes:
        arm: its name.
        problem: why a figure is missing: skipped, wrong, or what it raised.
        error: of the weight gradient, relative, in this mode on the timed input.
        tolerance: for the error.
        step_s: seconds of a whole training step in every round.
        layer_s: seconds of the first layer's forward and backward in every round.
        step_bytes: by which memory grew at most in a step.
        layer_bytes: likewise in the layer's forward and backward.
        launches: of the layer's forward and backward, see `count_launches`.
    """

    arm: str
    problem: str | None = None
    error: float | None = None
    tolerance: float | None = None
    step_s: tuple[float, ...] = ()
    layer_s: tuple[float, ...] = ()
    step_bytes: int | None = None
    layer_bytes: int | None = None
    launches: int | None = None


@dataclass(frozen=True)
class BenchRecord(JsonLine):
    """One case in one mode.

    Attributes:
        case: name, without the batch size.
        axis: of the scaling curve that this is a point of, or None.
        value: where on the axis.
        batch: samples per step.
        sample: shape of one.
        layer: how the first layer prints.
        rows: b.
        entries: n.
        mode: how it was run.
        lam: λ.
        seed: of weights, inputs and order.
        rounds: measurements per arm.
        arms: what was compared, vanilla first.
        floor: what the layer's extra work needs at least.
        ceilings: of the machine.
        device: name of the hardware.
        threads: of torch on the CPU.
        versions: of the libraries, Python and the platform.
        commit: of trainact's source, or None.
        started: UTC, ISO 8601.
        command: as typed.
        schema: version of these fields.
    """

    case: str
    axis: str | None
    value: int
    batch: int
    sample: tuple[int, ...]
    layer: str
    rows: int
    entries: int
    mode: Mode
    lam: float
    seed: int
    rounds: int
    arms: tuple[ArmResult, ...]
    floor: Floor
    ceilings: Ceilings
    device: str
    threads: int
    versions: dict[str, str]
    commit: str | None
    started: str
    command: str
    schema: int = field(default=SCHEMA)

    @property
    def name(self) -> str:
        """For example ``deit-s-224-b16``."""
        return f"{self.case}-b{self.batch}"

    @staticmethod
    def from_line(line: str) -> BenchRecord:
        """Read a line that `to_line` wrote.

        Args:
            line: one line of JSON.

        Returns:
            The record.
        """
        return read_line(line, (SCHEMA,), _read_record)


def _read_record(values: dict[str, Any]) -> BenchRecord:
    values["sample"] = tuple(values["sample"])
    values["mode"] = Mode(**values["mode"])
    values["floor"] = Floor(**values["floor"])
    values["ceilings"] = Ceilings(**values["ceilings"])
    values["arms"] = tuple(_read_arm(arm) for arm in values["arms"])
    return BenchRecord(**values)


def _read_arm(values: dict[str, Any]) -> ArmResult:
    for name in ("step_s", "layer_s"):
        values[name] = tuple(values[name])
    return ArmResult(**values)


def bench_file(path: Path) -> LineFile[BenchRecord]:
    """Open a file of benchmark records.

    Args:
        path: of the file; it need not exist yet.

    Returns:
        The file.
    """
    return LineFile(path, BenchRecord.from_line)


def latest(records: list[BenchRecord]) -> list[BenchRecord]:
    """Keep the last record of every case, mode and device.

    Args:
        records: in the order of the file.

    Returns:
        One of each, in the order of their first appearance.
    """
    found = {(r.case, r.batch, r.mode, r.device): r for r in records}
    return list(found.values())
