"""What is asked of an experiment; plain data, so that `make gpu-lab` needs no tyro."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

Precision = Literal["32", "bf16-mixed", "16-mixed"]
Pipeline = Literal["auto", "resident", "workers"]


@dataclass(frozen=True, kw_only=True)
class ExperimentOptions:
    """What runs and sweeps have in common.

    Without options a recipe is trained as the paper did. What changes the experiment is
    noted in its records, and `trainact report` shows it.
    """

    groups: ClassVar[dict[str, tuple[str, ...]]] = {
        "data": ("data", "data_dir", "limit", "image_size", "corrupt"),
        "training": ("epochs", "batch_size", "micro_batch", "lr", "weights"),
        "machine": (
            *("device", "devices", "precision", "channels_last", "compile"),
            *("pipeline", "workers"),
        ),
        "output": (
            *("out", "keep_weights", "checkpoint_seconds", "logger", "wandb_project"),
        ),
    }
    """Headings of the help."""

    method: tuple[str, ...] = ()
    """Train these methods only, or others than the recipe's: vanilla, tract, tract+sgd,
    patchnorm, dual-patchnorm, whitening or PACKAGE.MODULE:NAME."""

    lam: tuple[float, ...] = ()
    """Values of TrAct's lambda, instead of the recipe's."""

    data: str | None = None
    """Other images than the recipe's: cifar10, cifar100 or imagefolder:PATH; where they
    are photographs also webdataset:PATH, flowers102 or stanford-cars; for detection
    voc:PATH."""

    data_dir: Path = Path(".data")
    """Where torchvision keeps its downloads."""

    epochs: int | None = None
    """Passes over the training images, instead of the recipe's; warm-up and milestones
    keep their shares."""

    batch_size: int | None = None
    """Images per step, instead of the recipe's."""

    lr: float | None = None
    """Learning rate of every method, instead of the recipe's."""

    limit: int | None = None
    """Train on this many images only, every class keeping its share."""

    image_size: int | None = None
    """Height and width to bring images to, of imagefolder:PATH and all photographs; for
    detection the shorter side."""

    precision: Precision | None = None
    """Lightning's name of the number format: float32, or mixed with bfloat16 or
    float16; by default the recipe's."""

    channels_last: bool = False
    """Lay images and weights out with channels last."""

    compile: bool = False
    """Compile the model with torch.compile."""

    smoke: bool = False
    """Four steps on eight made-up images, to see that everything works."""

    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1 or mps."""

    devices: int = 1
    """How many of them on this machine share every batch; more machines: torchrun."""

    micro_batch: int | None = None
    """Most images that a device takes at once; gradients add up to the whole batch."""

    workers: int | None = None
    """Processes that read and augment images, for each device, by default one for each
    core; with 0 the process that trains does it itself."""

    corrupt: Literal["stop", "skip"] = "stop"
    """What to do about a training photograph that cannot be decoded: stop, or take the
    next one in its place."""

    weights: Path | None = None
    """For a recipe that begins with another one's weights: the file of a state dict,
    instead of what that recipe left in --out. {method}, {lam} and {seed} stand for the
    run's."""

    keep_weights: bool = False
    """Keep the trained weights in --out, also of recipes that no other begins with."""

    pipeline: Pipeline = "auto"
    """resident keeps the images on the device and augments them there in batches;
    workers augments image by image in processes; auto prefers what fits."""

    logger: Literal["tensorboard", "wandb", "none"] = "tensorboard"
    """Where the curves go while training, besides epochs.jsonl."""

    wandb_project: str = "trainact"
    """Project of Weights & Biases."""

    checkpoint_seconds: float = 60.0
    """Keep a checkpoint of a run, when the last one is this old."""

    out: Path = Path("runs/recipes")
    """Folder for records.jsonl, epochs.jsonl, checkpoints, weights and logs."""
