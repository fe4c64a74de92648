"""What `trainact bench` can be told; plain data, so that `make gpu` needs no tyro."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

USUAL_ARMS = ("vanilla", "vanilla-again", "trainact", "torch-tract", "unfold")
ARM_NAMES = (*USUAL_ARMS, "trainact-overlap", "trainact-triton")
MODE_NAMES = ("eager-fp32", "eager-bf16", "compiled-fp32", "compiled-bf16")


@dataclass(frozen=True)
class BenchOptions:
    """Measure training steps, the first layer alone, memory and launches.

    Without options: a quick look at three cases. An arm whose weight gradient is not
    what it should be gets its error in place of a speed. Exits with 1 if that happens
    to vanilla or trainact.
    """

    groups: ClassVar[dict[str, tuple[str, ...]]] = {
        "case": (
            *("cases", "model", "batch_size", "image_size", "layer", "scaling"),
            "suite",
        ),
        "measuring": (
            *("layer_only", "rounds", "minutes", "seed", "threads", "device"),
            *("modes", "channels_last"),
        ),
        "output": ("out", "json"),
    }
    """Headings of the help."""

    cases: tuple[str, ...] = ()
    """Names of cases, with or without a batch size: resnet18-cifar, vit-cifar-b64,
    resnet18-224, resnet34-224, resnet50-224, deit-s-224, deit-b-192, vgg16-detection,
    video-vit, audio-wav2vec2."""

    model: str | None = None
    """A model of your own instead: of torchvision or timm by name, or
    PACKAGE.MODULE:FUNCTION, which is called without arguments and returns a model."""

    batch_size: int | None = None
    """Samples per step, for cases without one in their names."""

    image_size: int | None = None
    """For --model: height and width of the images; by default what the model was made
    for."""

    layer: str | None = None
    """For --model: name of the first layer, where it cannot be told from the model."""

    lam: float = 0.1
    """TrAct's lambda."""

    arms: tuple[str, ...] = USUAL_ARMS
    """Arms to compare. vanilla-again shows the machine's noise, torch-tract is the
    paper's code if it is installed, unfold the formula written down plainly. On CUDA
    and ROCm devices also trainact-overlap (statistics on a stream of their own) and
    trainact-triton (products by the Triton kernel)."""

    modes: tuple[str, ...] = ("eager-fp32",)
    """eager-fp32, eager-bf16 (autocast), compiled-fp32, compiled-bf16."""

    channels_last: bool = False
    """Lay images and weights out with channels last."""

    layer_only: bool = False
    """Measure the first layer alone, no whole steps."""

    scaling: bool = False
    """Measure how the layer's extra time grows with rows, entries, batch and kernel
    size, instead of cases."""

    suite: Literal["cpu", "gpu"] | None = None
    """Everything that the committed records hold, for a CPU or for a GPU."""

    rounds: int | None = None
    """Measurements per arm; by default 10, in a suite as many as each case needs."""

    minutes: float | None = None
    """Start no further case after this time, and say which were left out."""

    seed: int = 0
    """Of weights, inputs and the order of the arms."""

    threads: int | None = None
    """CPU threads of torch; by default torch's own choice."""

    device: str = "auto"
    """Where to measure: auto, cpu, cuda or cuda:1."""

    out: Path = Path("runs/bench.jsonl")
    """File that the records are added to."""

    json: bool = False
    """Print a summary as JSON; progress and tables go to standard error."""
