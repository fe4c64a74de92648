"""Fashion-MNIST, CIFAR-10 and CIFAR-100 through torchvision's own dataset classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainact.lab.data.images import ImageData
from trainact.lab.errors import LabError, first_line

# name on the command line → (torchvision class, what its download leaves in data_dir)
SETS = {
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw/*-ubyte"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py/"),
    "cifar100": ("CIFAR100", "cifar-100-python/"),
}


def load(name: str, data_dir: Path) -> ImageData:
    """Load a set, downloading it into `data_dir` where it is not there yet.

    Args:
        name: a key of `SETS`.
        data_dir: root folder of downloads.

    Returns:
        The published training and test images.
    """
    train, test = _open(name, data_dir, train=True), _open(name, data_dir, train=False)
    return ImageData(
        _to_bytes(train.data),
        torch.as_tensor(train.targets, dtype=torch.int64),
        _to_bytes(test.data),
        torch.as_tensor(test.targets, dtype=torch.int64),
        tuple(train.classes),
    )


def _open(name: str, data_dir: Path, *, train: bool) -> Any:
    import torchvision.datasets

    class_name, files = SETS[name]
    dataset = getattr(torchvision.datasets, class_name)
    try:
        return dataset(str(data_dir), train=train, download=False)
    except (RuntimeError, OSError, ValueError):
        pass  # not there, or not whole: the download below says which
    try:
        return dataset(str(data_dir), train=train, download=True)
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        raise LabError(
            f"cannot download {name} ({first_line(error)}): without a network, put "
            f"its files at {data_dir / files} as torchvision's {class_name} lays "
            "them out, or use --data digits, which needs none"
        ) from error


def _to_bytes(images: Any) -> Tensor:
    """Bring [N, H, W] tensors or [N, H, W, C] arrays to bytes [N, C, H, W]."""
    array = np.asarray(images, dtype=np.uint8)
    images_NHWC = torch.from_numpy(array.reshape(*array.shape[:3], -1).copy())
    return images_NHWC.permute(0, 3, 1, 2).contiguous()
