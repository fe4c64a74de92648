"""ResNets for 32x32 images: torchvision's, with a 3x3 stem of stride 1.

Those of the CIFAR-100 table have no max-pooling and torch's default initialisation;
``resnet18-maxpool``, the network of the CIFAR-10 figures, keeps torchvision's pooling
and initialisation.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from trainact.lab.models.cifar.blocks import ConvNormAct, reset_parameters


def adapt_resnet(model: nn.Module) -> nn.Module:
    """Give a ResNet of torchvision the CIFAR-100 table's stem and initialisation.

    Args:
        model: a `torchvision.models.ResNet`; it is changed.

    Returns:
        The same model.
    """
    # One module, for its convolution is known as ``conv1.0``.
    model.conv1 = nn.Sequential(*ConvNormAct(3, 64, 3))
    model.bn1 = nn.Identity()
    model.relu = nn.Identity()
    model.maxpool = nn.Identity()
    return reset_parameters(model)


def _build(name: str, num_classes: int) -> nn.Module:
    from torchvision import models

    return adapt_resnet(models.get_model(name, num_classes=num_classes))


def _build_with_maxpool(num_classes: int) -> nn.Module:
    from torchvision import models

    model = models.resnet18(num_classes=num_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    # As torchvision initialises the stem that this one replaces.
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return model


MODELS: dict[str, Callable[[int], nn.Module]] = {
    **{f"resnet{d}": partial(_build, f"resnet{d}") for d in (18, 34, 50, 101, 152)},
    "resnet18-maxpool": _build_with_maxpool,
}
