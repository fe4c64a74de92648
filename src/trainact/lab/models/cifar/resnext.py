"""ResNeXts (32x4d) for 32x32 images, whose first 1x1 convolutions are grouped too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import nn

from trainact.lab.models.cifar.resnet import adapt_resnet

GROUPS = 32
WIDTH_PER_GROUP = 4


def _build(num_blocks: tuple[int, int, int, int], num_classes: int) -> nn.Module:
    from torchvision.models.resnet import Bottleneck, ResNet

    model = ResNet(
        Bottleneck,
        list(num_blocks),
        num_classes=num_classes,
        groups=GROUPS,
        width_per_group=WIDTH_PER_GROUP,
    )
    for block in model.modules():
        if isinstance(block, Bottleneck):
            dense = block.conv1
            block.conv1 = nn.Conv2d(
                dense.in_channels, dense.out_channels, 1, groups=GROUPS, bias=False
            )
    return adapt_resnet(model)


MODELS: dict[str, Callable[[int], nn.Module]] = {
    "resnext50": partial(_build, (3, 4, 6, 3)),
    "resnext101": partial(_build, (3, 4, 23, 3)),
    "resnext152": partial(_build, (3, 4, 36, 3)),
}
