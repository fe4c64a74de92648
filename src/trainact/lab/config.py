"""One run, fully described; its hash is the key under which the record is found."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

# Part of every key: raise it when the same configuration no longer means the same run.
CONFIG_VERSION = 1


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides the outcome of a run, and nothing else.

    Attributes:
        data: data set as given on the command line.
        model: resolved name.
        method: name of the method.
        lam: λ, or None for a method without.
        optimizer: ``sgd``, ``adam`` or ``adamw``.
        lr: initial learning rate.
        epochs: passes over the training images.
        batch_size: images per step.
        schedule: ``cosine`` or ``constant``.
        seed: of the initial weights and of the order of the images.
        limit: number of training images, or None for all.
        image_size: to which images were brought, or None.
        layer: name of the first layer, or None where the method found it.
        device: kind of device, without an index: ``cpu``, ``cuda`` or ``mps``.
        precision: Lightning's name of it.
    """

    data: str
    model: str
    method: str
    lam: float | None
    optimizer: str
    lr: float
    epochs: int
    batch_size: int
    schedule: str
    seed: int
    limit: int | None
    image_size: int | None
    layer: str | None
    device: str
    precision: str

    @property
    def arm(self) -> str:
        """Name of the method with its λ, as tables and plots show it."""
        return arm_name(self.method, self.lam)

    def key(self, data_hash: str) -> str:
        """Hash the configuration together with the data it was run on.

        Args:
            data_hash: hash of the images and labels.

        Returns:
            16 hexadecimal digits.
        """
        identity = {"version": CONFIG_VERSION, "data_hash": data_hash, **asdict(self)}
        text = json.dumps(identity, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Write the configuration as plain values.

        Returns:
            A dictionary for a record.
        """
        return asdict(self)

    @staticmethod
    def from_json(values: dict[str, Any]) -> RunConfig:
        """Read what `to_json` wrote.

        Args:
            values: the dictionary.

        Returns:
            The configuration.
        """
        return RunConfig(**values)


def arm_name(method: str, lam: float | None) -> str:
    """Name a method with its λ.

    Args:
        method: name of the method.
        lam: λ, or None.

    Returns:
        For example ``tract λ=0.1``.
    """
    return method if lam is None else f"{method} λ={lam:g}"
