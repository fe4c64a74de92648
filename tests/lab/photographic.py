"""Made-up photographs of differing sizes, in files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from trainact import cli
from trainact.lab.data.photographs import Photographs, load_photographs

NAMES = ("ape", "bee", "cat")
COUNTS = {"train": (7, 5, 6), "val": (2, 3, 2)}
# Of images of about 1.5 kB each, so that there are several shards.
SHARD_BYTES = 4000


def draw(seed: int, size: tuple[int, int] | None = None) -> Image.Image:
    """A smooth random picture, of a random size if none is given."""
    generator = np.random.default_rng(seed)
    width, height = size or generator.integers(20, 60, 2).tolist()
    coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format=kind, **options)
    return file.getvalue()


def write_photographs(root: Path) -> Path:
    """Three classes of unequal sizes, JPEG but for one PNG."""
    seed = 0
    for split, counts in COUNTS.items():
        for name, count in zip(NAMES, counts, strict=True):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                seed += 1
                path = root / split / name / f"{number:03}.JPEG"
                path.write_bytes(encode(draw(seed)))
    first = root / "train" / "ape" / "000.JPEG"
    first.rename(first.with_suffix(".png"))
    first.with_suffix(".png").write_bytes(encode(draw(0), "PNG"))
    return root


def load(spec: str | Path, **changes: Any) -> Photographs:
    """Photographs at 16 x 16 as for a residual network, with changes."""
    options: dict[str, Any] = {
        "data_dir": Path("unused"),
        "image_size": 16,
        "augment": "imagenet",
        "eval_crop": 0.875,
        **changes,
    }
    named = f"imagefolder:{spec}" if isinstance(spec, Path) else spec
    return load_photographs(named, **options)


def make_shards(folder: Path, out: Path, *arguments: str) -> int:
    """Run `trainact shards make`."""
    options = ["--out", str(out), "--shard-mb", str(SHARD_BYTES / 1e6), *arguments]
    return cli.main(["shards", "make", f"imagefolder:{folder}", *options])


def load_shards(folder: Path, **changes: Any) -> Photographs:
    return load(f"webdataset:{folder}", **changes)
