"""How bytes become the numbers that a model sees: (x - mean) / std for each channel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from trainact.lab.data import AnyData
from trainact.lab.errors import LabError

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

# name → (mean, std) of each channel, for images in [0, 1]; "data" is measured.
STATISTICS: dict[str, Statistics | None] = {
    "data": None,
    "0-1": ((0.0,), (1.0,)),
    "0-255": ((0.0,), (1 / 255,)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    # The widespread std that is not CIFAR-10's own, as in TrAct's released script.
    "cifar10-released": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "cifar100": (
        (0.50707515, 0.48654887, 0.44091784),
        (0.26733429, 0.25643846, 0.27615047),
    ),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


def find_statistics(name: str, data: AnyData) -> tuple[Tensor, Tensor]:
    """Look statistics up.

    Args:
        name: a key of `STATISTICS`.
        data: measured for ``data``.

    Returns:
        Mean and std of each channel in units of bytes, float32 [C].

    Raises:
        LabError: if the statistics are those of other channels.
    """
    given = STATISTICS[name]
    if given is None:
        return data.statistics
    channels = data.image_shape[0]
    mean, std = (torch.tensor(values) * 255 for values in given)
    if len(mean) not in (1, channels):
        raise LabError(
            f"normalise {name!r} is for images of {len(mean)} channels and these have "
            f"{channels}: use 'data', '0-1' or '0-255'"
        )
    return mean.expand(channels), std.expand(channels)


class Normalise(nn.Module):
    """Bytes to the float images that a model sees.

    Args:
        mean_C: of each channel, in units of bytes.
        std_C: likewise.
    """

    def __init__(self, mean_C: Tensor, std_C: Tensor) -> None:
        super().__init__()
        self.mean_C11: Tensor
        self.std_C11: Tensor
        self.register_buffer("mean_C11", mean_C.reshape(-1, 1, 1))
        self.register_buffer("std_C11", std_C.reshape(-1, 1, 1))

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Normalise a batch.

        Args:
            images_BCHW: bytes.

        Returns:
            Float images of the same shape.
        """
        return (images_BCHW.float() - self.mean_C11) / self.std_C11
