"""The method in float64 NumPy, equation by equation: the oracle of every test.

Written for reading, not for speed, and independent of the PyTorch code: patches are
gathered one output position at a time, every system is solved densely. The paper's
columns are samples (x is n x b); here rows are samples, as in its Fig. 2, so that
``grad_z.T @ x`` is the ordinary weight gradient.

Legend: N = rows of the unfolded batch (the paper's b), P = entries of a row (the
paper's n), O = output features or channels (the paper's m).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.linalg import solve
from numpy.typing import NDArray

Array = NDArray[Any]  # float64 throughout

PAD_MODES = {
    "zeros": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


def gram(x_NP: Array) -> Array:
    r"""Second moment of the rows, :math:`A = X^\top X / b`.

    Args:
        x_NP: the unfolded batch X; its number of rows is b.

    Returns:
        A, shape ``[P, P]``.
    """
    return x_NP.T @ x_NP / len(x_NP)


def weight_gradient(grad_z_NO: Array, x_NP: Array) -> Array:
    r"""The ordinary gradient, :math:`\nabla_W = \nabla_z^\top X` (Eq. 1).

    Args:
        grad_z_NO: gradient of the loss with respect to the pre-activations.
        x_NP: the unfolded batch.

    Returns:
        The gradient with respect to W, shape ``[O, P]``.
    """
    return grad_z_NO.T @ x_NP


def tract_gradient(grad_z_NO: Array, x_NP: Array, lam: float) -> Array:
    r"""TrAct's gradient, the ordinary one times :math:`(A + \lambda I)^{-1}` (Eq. 12).

    Args:
        grad_z_NO: gradient of the loss with respect to the pre-activations.
        x_NP: the unfolded batch.
        lam: :math:`\lambda`.

    Returns:
        What an optimizer is given in place of the weight gradient, shape ``[O, P]``.
    """
    damped_PP = gram(x_NP) + lam * np.eye(x_NP.shape[1])
    return solve(damped_PP, weight_gradient(grad_z_NO, x_NP).T).T


def tract_gradient_dual(grad_z_NO: Array, x_NP: Array, lam: float) -> Array:
    r"""The same through a b x b system, for fewer rows than entries.

    By the push-through identity it equals
    :math:`\nabla_z^\top (X X^\top / b + \lambda I)^{-1} X`.

    Args:
        grad_z_NO: gradient of the loss with respect to the pre-activations.
        x_NP: the unfolded batch.
        lam: :math:`\lambda`.

    Returns:
        The same as `tract_gradient`, shape ``[O, P]``.
    """
    damped_NN = x_NP @ x_NP.T / len(x_NP) + lam * np.eye(len(x_NP))
    return grad_z_NO.T @ solve(damped_NN, x_NP)


def activation_proposal(z_NO: Array, grad_z_NO: Array, learning_rate: float) -> Array:
    r"""A gradient step on the pre-activations, :math:`z^\star = z - \eta b \nabla_z`.

    The factor b undoes the mean over rows in the loss (Eq. 3).

    Args:
        z_NO: pre-activations.
        grad_z_NO: gradient of the loss with respect to them.
        learning_rate: :math:`\eta`.

    Returns:
        The proposal, shape ``[N, O]``.
    """
    return z_NO - learning_rate * len(z_NO) * grad_z_NO


def objective(
    delta_w_OP: Array,
    weight_OP: Array,
    x_NP: Array,
    z_star_NO: Array,
    lam: float,
) -> float:
    r"""What the update minimises (Eq. 5).

    :math:`\|z^\star - (W + \Delta W) x\|^2 + \lambda b \|\Delta W\|^2`.

    Args:
        delta_w_OP: :math:`\Delta W`.
        weight_OP: W.
        x_NP: the unfolded batch.
        z_star_NO: the activation proposal.
        lam: :math:`\lambda`.

    Returns:
        The value of the objective.
    """
    residual_NO = z_star_NO - x_NP @ (weight_OP + delta_w_OP).T
    return float(np.sum(residual_NO**2) + lam * len(x_NP) * np.sum(delta_w_OP**2))


def update(grad_z_NO: Array, x_NP: Array, lam: float, learning_rate: float) -> Array:
    r"""The minimiser of `objective`, :math:`\Delta W^\star` (Lemma 1, Eq. 9).

    Args:
        grad_z_NO: gradient of the loss with respect to the pre-activations.
        x_NP: the unfolded batch.
        lam: :math:`\lambda`.
        learning_rate: :math:`\eta`.

    Returns:
        The change of W, shape ``[O, P]``.
    """
    return -learning_rate * tract_gradient(grad_z_NO, x_NP, lam)


def unfold(
    images: Array,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Array:
    """Rows of the unfolded batch of a convolution, one block per group.

    Args:
        images: ``[B, C, *spatial]`` with any number of spatial dimensions.
        kernel_size: kernel size per spatial dimension.
        stride: stride per spatial dimension.
        padding: (before, after) per spatial dimension.
        dilation: dilation per spatial dimension.
        groups: channel groups.
        padding_mode: ``zeros``, ``reflect``, ``replicate`` or ``circular``.

    Returns:
        ``[groups, N, P]``: N runs over images, then output positions in row-major
        order; P over the group's channels, then kernel positions in row-major order,
        which is the order of ``weight.reshape(O, -1)``.
    """
    padded = np.pad(images, [(0, 0), (0, 0), *padding], PAD_MODES[padding_mode])  # pyright: ignore[reportArgumentType, reportCallIssue]
    outputs = [
        range((size - d * (k - 1) - 1) // s + 1)
        for size, k, s, d in zip(
            padded.shape[2:], kernel_size, stride, dilation, strict=True
        )
    ]
    group_channels = images.shape[1] // groups
    blocks: list[Array] = []
    for group in range(groups):
        channels = slice(group * group_channels, (group + 1) * group_channels)
        rows = [
            image[(channels, *_window(position, kernel_size, stride, dilation))].ravel()
            for image in padded
            for position in itertools.product(*outputs)
        ]
        blocks.append(np.array(rows))
    return np.stack(blocks)


def _window(
    position: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> tuple[slice, ...]:
    return tuple(
        slice(o * s, o * s + d * (k - 1) + 1, d)
        for o, k, s, d in zip(position, kernel_size, stride, dilation, strict=True)
    )
