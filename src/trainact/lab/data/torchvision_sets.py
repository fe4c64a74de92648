"""Fashion-MNIST, CIFAR-10 and CIFAR-100 through torchvision's own dataset classes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainact.lab.data.images import ImageData, check_labels
from trainact.lab.errors import LabError, first_line

# name on the command line → (torchvision class, folder of its download, files in it)
SETS = {
    "fashion-mnist": ("FashionMNIST", "FashionMNIST/raw", "*-ubyte"),
    "cifar10": ("CIFAR10", "cifar-10-batches-py", ""),
    "cifar100": ("CIFAR100", "cifar-100-python", ""),
}


def load(name: str, data_dir: Path) -> ImageData:
    """Load a set, downloading it into `data_dir` where it is not there yet.

    Args:
        name: a key of `SETS`.
        data_dir: root folder of downloads.

    Returns:
        The published training and test images.
    """
    import torchvision.datasets

    class_name, folder, files = SETS[name]
    make = partial(getattr(torchvision.datasets, class_name), str(data_dir))
    layout = f"{data_dir / folder / files} as torchvision's {class_name} lays them out"
    remedy = f"{layout}, or use --data digits, which needs none"
    train, test = (
        open_set(partial(make, train=part), name, data_dir / folder, remedy)
        for part in (True, False)
    )
    labels = [
        torch.as_tensor(part.targets, dtype=torch.int64) for part in (train, test)
    ]
    classes = tuple(train.classes)
    check_labels(name, classes, training=labels[0].numpy(), test=labels[1].numpy())
    return ImageData(
        _to_bytes(train.data), labels[0], _to_bytes(test.data), labels[1], classes
    )


def open_set(make: Callable[..., Any], name: str, folder: Path, remedy: str) -> Any:
    """Open one of torchvision's sets, downloading what is not there or not whole.

    Args:
        make: of torchvision; called with ``download``.
        name: of the set.
        folder: that its files are in.
        remedy: where to put the files without a network.

    Returns:
        What `make` returns.

    Raises:
        LabError: if it cannot be downloaded, or its files are not whole.
    """
    for download in (False, True):
        try:
            return make(download=download)
        except Exception as error:  # torchvision raises many types on altered files
            last = error
    what = f"cannot download {name}"
    if any(path.is_file() for path in folder.rglob("*")):
        what = f"{folder} has other files than {name}'s, and they cannot be replaced"
    raise LabError(
        f"{what} ({first_line(last)}): without a network, put its files at {remedy}"
    ) from last


def _to_bytes(images: Any) -> Tensor:
    """Bring [N, H, W] tensors or [N, H, W, C] arrays to bytes [N, C, H, W]."""
    array = np.asarray(images, dtype=np.uint8)
    images_NHWC = torch.from_numpy(array.reshape(*array.shape[:3], -1).copy())
    return images_NHWC.permute(0, 3, 1, 2).contiguous()
