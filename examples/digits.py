"""Real images for the examples: scikit-learn's digits, in a folder per class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

SIZE = 32


def image_folder(root: str | Path, number: int = 500) -> Path:
    """Write ``root/{train,val}/<digit>/<number>.png``; one in five is for val."""
    root = Path(root)
    data = load_digits()
    images = (data.images[:number] * (255 / data.images.max())).astype(np.uint8)
    for index, (image, label) in enumerate(zip(images, data.target, strict=False)):
        split = "val" if index % 5 == 0 else "train"
        file = root / split / str(label) / f"{index:04}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR).save(
            file
        )
    return root
