"""Parts that several of the CIFAR networks share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn

Size = int | tuple[int, int]


def relu() -> nn.ReLU:
    """Build a ReLU that overwrites its input, which a norm or a sum has just made."""
    return nn.ReLU(inplace=True)


def chain(**steps: nn.Module) -> nn.Sequential:
    """Build an `nn.Sequential` with named steps.

    Args:
        **steps: name → module, in the order of execution.

    Returns:
        The chain.
    """
    return nn.Sequential(OrderedDict(steps))


class ConvNormAct(nn.Sequential):
    """Convolution, batch norm and ReLU, named ``conv``, ``norm`` and ``act``.

    Unpacked with a star into another `nn.Sequential`, they are numbered.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the kernel, or height and width.
        stride: of the convolution.
        padding: None for half the kernel, which keeps the size at stride 1.
        groups: of the convolution.
        bias: whether the convolution has one.
        act: builds another activation; None for none.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size = 1,
        stride: int = 1,
        padding: Size | None = None,
        groups: int = 1,
        bias: bool = False,
        act: Callable[[], nn.Module] | None = relu,
    ) -> None:
        if padding is None:
            padding = half(kernel_size)
        conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            groups=groups,
            bias=bias,
        )
        parts: dict[str, nn.Module] = {
            "conv": conv,
            "norm": nn.BatchNorm2d(out_channels),
        }
        if act is not None:
            parts["act"] = act()
        super().__init__(OrderedDict(parts))


class Residual(nn.Module):
    """The sum of a branch and a shortcut.

    Args:
        branch: does not overwrite its input.
        shortcut: None for the identity.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Add the two.

        Args:
            features_BCHW: what both see.

        Returns:
            The sum.
        """
        return self.branch(features_BCHW) + self.shortcut(features_BCHW)


class Concat(nn.Module):
    """Modules that see the same input, their outputs joined along the channels.

    Args:
        *branches: the modules, in the order of their channels in the output.
    """

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, features_BCHW: Tensor) -> Tensor:
        """Run every branch.

        Args:
            features_BCHW: what every branch sees.

        Returns:
            The outputs, one after the other along the channels.
        """
        return torch.cat([branch(features_BCHW) for branch in self.branches], 1)


def make_head(channels: int, num_classes: int, dropout: float = 0.0) -> nn.Sequential:
    """Build global average pooling and a linear classifier.

    Args:
        channels: channels of the feature maps.
        num_classes: number of outputs.
        dropout: probability that a pooled channel is dropped.

    Returns:
        A module from feature maps to logits.
    """
    drop = [nn.Dropout(dropout)] if dropout else []
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        *drop,
        nn.Linear(channels, num_classes),
    )


def half(kernel_size: Size) -> Size:
    """Padding that keeps the size of the image behind an odd kernel."""
    if isinstance(kernel_size, int):
        return kernel_size // 2
    height, width = kernel_size
    return height // 2, width // 2


def reset_parameters(model: nn.Module) -> nn.Module:
    """Draw all parameters again, as torch initialises each kind of layer by default.

    Args:
        model: made of torch's layers, such as a model of torchvision; it is changed.

    Returns:
        The same model.
    """
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return model
