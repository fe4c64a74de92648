"""Where the numbers of an experiment come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from trainact.lab.records import DataSummary, Record
from trainact.lab.reporting.speed import machine


@dataclass(frozen=True)
class Provenance:
    """What a reader needs to judge or repeat an experiment; each value once.

    Attributes:
        commits: of trainact's source; empty where it was no checkout.
        versions: of the libraries, one text per environment.
        machines: see `trainact.lab.reporting.speed.machine`.
        commands: as typed.
        seeds: of all arms together.
        recipe_hashes: as recorded; empty for records from before recipes.
        started: of the first and of the last run, UTC.
        data: counts, shape and hash.
        num_parameters: of the model.
    """

    commits: tuple[str, ...]
    versions: tuple[str, ...]
    machines: tuple[str, ...]
    commands: tuple[str, ...]
    seeds: tuple[int, ...]
    recipe_hashes: tuple[str, ...]
    started: tuple[str, str]
    data: str
    num_parameters: tuple[int, ...]


def provenance(records: Sequence[Record]) -> Provenance:
    """Collect where the records of an experiment come from.

    Args:
        records: on the same data.

    Returns:
        Every value once, in the order in which it appears.
    """
    return Provenance(
        commits=_distinct(record.commit for record in records),
        versions=_distinct(_versions(record.versions) for record in records),
        machines=_distinct(machine(record) for record in records),
        commands=_distinct(record.command for record in records),
        seeds=tuple(sorted({record.config.seed for record in records})),
        recipe_hashes=_distinct(record.recipe_hash for record in records),
        started=(
            min(record.started for record in records),
            max(record.started for record in records),
        ),
        data=_data(records[0].data),
        num_parameters=_distinct(record.num_parameters for record in records),
    )


def _distinct(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(value for value in values if value))


def _versions(versions: dict[str, str]) -> str:
    found = {k: v for k, v in versions.items() if v != "not installed"}
    return ", ".join(f"{name} {version}" for name, version in found.items())


def _data(data: DataSummary) -> str:
    return (
        f"{data['train']:,} training images, {data['test']:,} test images, "
        f"{' x '.join(map(str, data['shape']))}, {len(data['classes'])} classes, "
        f"hash {data['hash']}"
    )
