"""What docs/scaling.md assumes of GPUs and links, and the times that follow."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from benchmarks.scaling_links import Link, all_gather_s, all_reduce_s
from benchmarks.scaling_operations import Work
from benchmarks.scaling_volumes import Stem, collectives
from trainact.geometry import make_geometry
from trainact.lab.table_text import markdown

# Assumptions, not measurements: change one, and `make readme` writes the page anew.
NODE = 8
INSIDE = Link(latency_s=5e-6, bytes_per_s=300e9)
BETWEEN = Link(latency_s=10e-6, bytes_per_s=40e9)
CONVOLUTIONAL = ("ResNet", "R3D", "UNETR", "nnU-Net")
CONVOLUTIONAL_RATE, TRANSFORMER_RATE = 60e12, 200e12
PRODUCT_RATE = 40e12
SYSTEM_RATE = 2e12
MEMORY_RATE = 2.5e12
GRADIENT_BYTES = 4


@dataclass(frozen=True)
class Case:
    """A network and what one GPU sees of it in a step."""

    name: str
    params: int
    image_flops: int
    stem: Stem

    @property
    def images(self) -> int:
        return self.stem.shape[0]

    @property
    def step_flops(self) -> int:
        return self.image_flops * self.images

    @property
    def step_s(self) -> float:
        """Of the assumed GPU, without TrAct and without waiting for others."""
        is_convolutional = self.name.startswith(CONVOLUTIONAL)
        rate = CONVOLUTIONAL_RATE if is_convolutional else TRANSFORMER_RATE
        return self.step_flops / rate

    def of(self, images: int) -> Case:
        """With another number of images on a GPU."""
        shape = (images, *self.stem.shape[1:])
        return replace(self, stem=replace(self.stem, shape=shape))


def read_case(record: dict[str, Any]) -> Case:
    layer = record["layer"]
    geometry = make_geometry(
        layer["channels"],
        layer["kernel_size"],
        layer["stride"],
        layer["padding"],
        dilation=1,
        groups=1,
        padding_mode="zeros",
        num_spatial=len(layer["kernel_size"]),
    )
    stem = Stem(geometry, layer["outputs"], (record["images"], *layer["sample"]))
    return Case(record["name"], record["params"], record["image_flops"], stem)


def assumptions() -> str:
    """What the modelled times rest on."""
    convolutional = ", ".join(CONVOLUTIONAL)
    rows = [
        (f"link, up to {NODE} GPUs", link_text(INSIDE)),
        (f"link, more than {NODE} GPUs", link_text(BETWEEN)),
        ("steps of transformers", f"{TRANSFORMER_RATE / 1e12:g} TFLOP/s reached"),
        (f"steps of {convolutional}", f"{CONVOLUTIONAL_RATE / 1e12:g} TFLOP/s reached"),
        ("TrAct's products, float32", f"{PRODUCT_RATE / 1e12:g} TFLOP/s"),
        ("TrAct's systems, float64", f"{SYSTEM_RATE / 1e12:g} TFLOP/s"),
        ("patches, written and read once", f"{MEMORY_RATE / 1e12:g} TB/s"),
        ("gradients between ranks", f"{GRADIENT_BYTES} bytes a parameter (DDP)"),
    ]
    return "\n".join(markdown(("what", "assumed"), rows, left=2))


def link_text(link: Link) -> str:
    return (
        f"alpha = {link.latency_s * 1e6:g} microseconds a message, "
        f"beta = {link.bytes_per_s / 1e9:g} GB/s one way"
    )


def gpu_s(stem: Stem, work: Work) -> float:
    """Time of TrAct's own operations on the assumed GPU, nothing beside them."""
    patches = 4 * stem.groups * stem.rows * stem.entries
    return (
        work.products / PRODUCT_RATE
        + work.systems / SYSTEM_RATE
        + 2 * patches / MEMORY_RATE
    )


def exchange_s(case: Case, ranks: int) -> float:
    """All collectives of a step, one after the other."""
    link = link_of(ranks)
    return sum(
        (all_reduce_s if call.name == "all_reduce" else all_gather_s)(
            call.sent_bytes, ranks, link
        )
        for call in collectives(case.stem, [case.stem.rows] * ranks)
    )


def link_of(ranks: int) -> Link:
    return INSIDE if ranks <= NODE else BETWEEN
