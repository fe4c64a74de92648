"""What `trainact compare` and `trainact inspect` can be told; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tyro.conf import Positional

from trainact.lab.experiment_options import Precision

Optimizer = Literal["sgd", "adam", "adamw"]
Schedule = Literal["cosine", "constant"]
Pixels = Literal["standardised", "0-1", "0-255"]


@dataclass(frozen=True)
class CompareOptions:
    """Train the same models with several methods and show what each one bought.

    Same data, same seeds, same initial weights, same order of images, same learning
    rate for every method. Running the same command again trains only what is missing.
    Without options: two small networks on scikit-learn's digits.
    """

    groups: ClassVar[dict[str, tuple[str, ...]]] = {
        "data": ("data", "data_dir", "limit", "image_size"),
        "training": ("optimizer", "lr", "schedule", "epochs", "batch_size"),
        "machine": ("device", "precision"),
        "output": ("out", "json"),
    }
    """Headings of the help."""

    also: ClassVar[dict[str, str]] = {"--method": "--methods", "--seed": "--seeds"}
    """Other names of options: those that they have in `trainact run`."""

    data: str = "digits"
    """digits, which needs no download, fashion-mnist, cifar10, cifar100 or
    imagefolder:PATH, a folder with a folder of images for each class."""

    data_dir: Path = Path(".data")
    """Where torchvision keeps its downloads."""

    model: tuple[str, ...] = ("small-cnn", "mlp")
    """small-cnn, small-resnet, small-patches-4, small-patches-16, small-vit,
    small-mixer, mlp, or any model of torchvision or timm by name (torchvision:NAME or
    timm:NAME where both have it)."""

    methods: tuple[str, ...] = ("vanilla", "tract")
    """Methods to compare: vanilla, tract, tract+sgd, patchnorm, dual-patchnorm,
    whitening or PACKAGE.MODULE:NAME."""

    lam: tuple[float, ...] = (0.1,)
    """TrAct's lambda; each value is an arm of its own."""

    optimizer: Optimizer = "sgd"
    """sgd has momentum 0.9; adam and adamw have torch's defaults."""

    lr: float | None = None
    """Learning rate of every method; by default vanilla's best on digits."""

    epochs: int = 15
    """Passes over the training images."""

    batch_size: int | None = None
    """Images per step; by default 64 for digits and 128 otherwise."""

    schedule: Schedule = "cosine"
    """Learning rate over the steps."""

    seeds: tuple[int, ...] = (0, 1, 2)
    """Each seed draws the initial weights and the order of the images."""

    limit: int | None = None
    """Train on this many images only, every class keeping its share."""

    image_size: int | None = None
    """For imagefolder:PATH: height and width to bring every image to."""

    layer: str | None = None
    """Name of the first layer, where it cannot be told from the model."""

    device: str = "auto"
    """Where to train: auto, cpu, cuda, cuda:1 or mps."""

    precision: Precision = "32"
    """Lightning's name of the number format: float32, or mixed with bfloat16 or
    float16."""

    out: Path = Path("runs/compare")
    """Folder for records.jsonl, curves.png, summary.md and summary.json."""

    json: bool = False
    """Print what stands in summary.json; progress and tables go to standard error."""


@dataclass(frozen=True)
class InspectOptions:
    """Show a model's first layers, what they see of the data and what TrAct costs.

    Nothing is trained. Without --data the layers and their sizes are shown, with it the
    spectrum of A = XᵀX / b and a suggested lambda.
    """

    groups: ClassVar[dict[str, tuple[str, ...]]] = {
        "data": ("data", "data_dir", "images", "image_size", "pixels"),
    }
    """Headings of the help."""

    model: Positional[str]
    """small-cnn, small-resnet, small-patches-4, small-patches-16, small-vit,
    small-mixer, mlp, a model of torchvision or timm by name, or
    PACKAGE.MODULE:FUNCTION, which is called without arguments and returns a model."""

    data: str | None = None
    """digits, which needs no download, fashion-mnist, cifar10, cifar100 or
    imagefolder:PATH, a folder with a folder of images for each class."""

    data_dir: Path = Path(".data")
    """Where torchvision keeps its downloads."""

    images: int = 256
    """How many training images to look at."""

    image_size: int | None = None
    """Height and width: to bring imagefolder's images to, or of the images where no
    data is given; by default what the model was made for."""

    pixels: Pixels = "standardised"
    """How the images are handed to the model: mean 0 and std 1 for each channel, or
    divided by 255, or as bytes."""

    layer: str | None = None
    """Name of the first layer, where it cannot be told from the model."""

    lam: tuple[float, ...] = (0.05, 0.1, 0.2)
    """Values of lambda to describe, with --data."""

    batch_size: int = 128
    """Images per training step, for the memory that a step needs."""

    json: bool = False
    """Print JSON."""
