"""One run, fully described; its hash is the key under which the record is found."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Self

# Part of every key: raise it when the same configuration no longer means the same run.
CONFIG_VERSION = 2
# Fields added since: at their defaults they are not part of any hash, so that runs
# recorded before are still found.
_LATER = {"later": True}


def _later(default: Any) -> Any:
    return field(default=default, metadata=_LATER)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything that decides the outcome of a run but method, seed and device.

    Attributes:
        data: data set as given on the command line.
        model: resolved name.
        epochs: passes over the training images.
        batch_size: images per step.
        drop_last: whether the last, smaller batch of an epoch is left out.
        limit: number of training images, or None for all.
        image_size: to which images were brought, or None.
        augment: name in `trainact.lab.data.augment.PIPELINES`.
        normalise: name in `trainact.lab.data.normalise.STATISTICS`.
        label_smoothing: ε of `torch.nn.functional.cross_entropy`.
        optimizer: ``sgd`` or a name in `trainact.lab.optimizers.KINDS`.
        lr: learning rate, before the schedule.
        momentum: of SGD.
        weight_decay: on all parameters.
        first_layer_lr: of the first layer, for a method that trains it apart.
        schedule: name in `trainact.lab.schedules.SCHEDULES`.
        warmup_epochs: at the beginning, for a schedule that has it.
        milestones: epochs, for a schedule in steps.
        gamma: factor at each milestone.
        min_lr: at the end, for a schedule that has it.
        layer: name of the first layer, or None where the method found it.
        precision: Lightning's name of it.
        channels_last: whether images and weights are laid out so.
        compile: whether the model is compiled.
        task: ``classification`` or ``detection``.
        loss: name in `trainact.lab.losses.LOSSES`.
        decay: which parameters decay, a name in `trainact.lab.optimizers.DECAYS`.
        warmup_lr: learning rate at the start of the warm-up, where the schedule has it.
        drop_path: rate of stochastic depth, the same in all blocks.
        mixup: alpha of mixup, 0 for none.
        cutmix: alpha of CutMix, 0 for none.
        mix_group: how many images of a batch are mixed among themselves with one draw,
            on however many devices they are; 0 for the whole batch.
        repeats: how often an image is repeated in its batch, each time augmented anew;
            an epoch then has fewer different images, not more steps.
        eval_crop: share of a test image's side that is kept, for photographs.
        pretrained: weights that a model of torchvision begins with, or None.
        begins_with: name of the recipe whose trained weights it begins with, of the
            same arm and seed, or None.
        evaluated: ``test`` images; or ``held-out``, a tenth of the training images of
            every class, which is then not trained on.
    """

    data: str
    model: str
    epochs: int
    batch_size: int
    drop_last: bool = False
    limit: int | None = None
    image_size: int | None = None
    augment: str = "none"
    normalise: str = "data"
    label_smoothing: float = 0.0
    optimizer: str
    lr: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    first_layer_lr: float | None = None
    schedule: str = "cosine"
    warmup_epochs: int = 0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    min_lr: float = 0.0
    layer: str | None = None
    precision: str = "32"
    channels_last: bool = False
    compile: bool = False
    task: str = _later("classification")
    loss: str = _later("cross-entropy")
    decay: str = _later("all")
    warmup_lr: float = _later(0.0)
    drop_path: float = _later(0.0)
    mixup: float = _later(0.0)
    cutmix: float = _later(0.0)
    mix_group: int = _later(0)
    repeats: int = _later(1)
    eval_crop: float = _later(0.875)
    pretrained: str | None = _later(None)
    begins_with: str | None = _later(None)
    evaluated: str = _later("test")

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read what `to_json` wrote, also before fields with defaults were added.

        Args:
            values: the dictionary.

        Returns:
            The configuration.
        """
        read: dict[str, Any] = {"milestones": (), **values}
        read["milestones"] = tuple(read["milestones"])
        return cls(**read)

    def to_json(self) -> dict[str, Any]:
        """Write the configuration as plain values.

        Returns:
            A dictionary for a record.
        """
        return asdict(self)

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def metric(self) -> str:
        """What a run is scored by, as headings say it."""
        return "mAP" if self.task == "detection" else "top-1"

    def identity(self) -> dict[str, Any]:
        """What a hash is made of: all but later fields that have their defaults.

        Returns:
            A dictionary of plain values.
        """
        return {
            part.name: getattr(self, part.name)
            for part in fields(self)
            if not part.metadata.get("later")
            or getattr(self, part.name) != part.default
        }


@dataclass(frozen=True, kw_only=True)
class RunConfig(Setting):
    """Everything that decides the outcome of a run, and nothing else.

    Attributes:
        method: name of the method.
        lam: λ, or None for a method without.
        seed: of the initial weights, the order of the images and all that is drawn.
        device: kind of device, without an index: ``cpu``, ``cuda`` or ``mps``.
        initial: hash of the weights that it begins with, or None for random ones.
    """

    method: str
    lam: float | None
    seed: int
    device: str
    initial: str | None = _later(None)

    @property
    def arm(self) -> str:
        """Name of the method with its λ, as tables and plots show it."""
        return arm_name(self.method, self.lam)

    @property
    def title(self) -> str:
        """For example ``mlp, tract λ=0.1, seed 2``."""
        return f"{self.model}, {self.arm}, seed {self.seed}"

    @property
    def setting(self) -> Setting:
        """The part that all arms and seeds of an experiment share."""
        names = (field.name for field in fields(Setting))
        return Setting(**{name: getattr(self, name) for name in names})

    def key(self, data_hash: str, code: str | None = None) -> str:
        """Hash the configuration together with the data it was run on.

        Args:
            data_hash: hash of the images and labels.
            code: hash of a method of the user's own.

        Returns:
            16 hexadecimal digits.
        """
        own = {} if code is None else {"code": code}
        return short_hash({"data_hash": data_hash, **own, **self.identity()})


def setting_hash(setting: Setting) -> str:
    """Hash what all arms and seeds of an experiment share: a recipe's hash.

    Args:
        setting: of a recipe or a run.

    Returns:
        16 hexadecimal digits.
    """
    return short_hash(setting.identity())


def short_hash(values: dict[str, Any]) -> str:
    """Hash plain values.

    Args:
        values: what JSON can write.

    Returns:
        16 hexadecimal digits.
    """
    text = json.dumps({"version": CONFIG_VERSION, **values}, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def arm_name(method: str, lam: float | None) -> str:
    """Name a method with its λ.

    Args:
        method: name of the method.
        lam: λ, or None.

    Returns:
        For example ``tract λ=0.1``.
    """
    return method if lam is None else f"{method} λ={lam:g}"
