"""The method as functions of tensors, for layers that trainact has no class for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trainact import precondition as _precondition
from trainact.damping import check_damping
from trainact.factor import Factor, factorise
from trainact.geometry import Geometry, make_geometry
from trainact.precision import accumulation_dtype, full_precision, statistics_dtype
from trainact.span import Span
from trainact.statistics.local import local_factor
from trainact.statistics.operators import gram

__all__ = ["Factor", "factor_from_gram", "patch_gram", "precondition"]


@torch.no_grad()
def patch_gram(
    x: Tensor,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Tensor:
    r"""Second moment of the patches that a convolution sees, :math:`A = X^\top X / b`.

    X is the unfolded batch: b = images x output positions rows, n = channels / groups x
    kernel positions entries, in the order of ``weight.reshape(O, -1)``. It is never
    held as a whole.

    Args:
        x: ``[B, C, *spatial]`` with one to three spatial dimensions.
        kernel_size: one number for all spatial dimensions, or one for each.
        stride: one number, or one for each dimension.
        padding: one number, or one for each dimension, or ``'same'`` or ``'valid'``.
        dilation: one number, or one for each dimension.
        groups: channel groups, each with a Gram matrix of its own.
        padding_mode: ``zeros``, ``reflect``, ``replicate`` or ``circular``.

    Returns:
        A, ``[n, n]``, or ``[groups, n, n]`` for more than one group; float64 for
        float64 inputs, otherwise float32.

    Raises:
        ValueError: if the arguments do not fit the input.

    Examples:
        >>> import torch, trainact
        >>> x = torch.arange(4.0).reshape(1, 1, 4)
        >>> trainact.functional.patch_gram(x, kernel_size=2)
        tensor([[1.6667, 2.6667],
                [2.6667, 4.6667]])

    References:
        Petersen, Borgelt, Ermon: TrAct: Making First-layer Pre-Activations Trainable,
        NeurIPS 2024, Sec. 3 (the matrix in Eq. 8 to 10).
    """
    if not 3 <= x.ndim <= 5:
        msg = f"x has shape {tuple(x.shape)}; expected [batch, channels, *spatial]"
        raise ValueError(msg)
    geometry = make_geometry(
        int(x.shape[1]),
        kernel_size,
        stride,
        padding,
        dilation,
        groups,
        padding_mode,
        num_spatial=x.ndim - 2,
    )
    outputs = geometry.output_size(x.shape[2:])
    if len(x) == 0 or min(outputs) < 1:
        msg = (
            f"x of shape {tuple(x.shape)} has no patches of size "
            f"{geometry.kernel_size}: the output would be [{len(x)}, ..., {outputs}]"
        )
        raise ValueError(msg)
    with full_precision(x):
        gram_GPP = gram(x, geometry) / geometry.num_rows(x.shape)
    gram_GPP = gram_GPP.to(statistics_dtype(x))
    return gram_GPP[0] if groups == 1 else gram_GPP


def factor_from_gram(
    gram_PP: Tensor, lam: float = 0.1, relative: bool = False
) -> Factor:
    r"""Prepare :math:`(A + \lambda I)^{-1}` for `precondition`.

    Args:
        gram_PP: A, ``[n, n]``, or ``[groups, n, n]``.
        lam: :math:`\lambda`, positive.
        relative: whether λ is in units of tr A / n, each group's own.

    Returns:
        The factor.

    Raises:
        ValueError: if A is not square or λ not positive.
        TypeError: if ``relative`` is not a bool.
    """
    if gram_PP.ndim not in (2, 3) or gram_PP.shape[-1] != gram_PP.shape[-2]:
        msg = f"A has shape {tuple(gram_PP.shape)}; expected [n, n] or [groups, n, n]"
        raise ValueError(msg)
    gram_GPP = gram_PP if gram_PP.ndim == 3 else gram_PP[None]
    with torch.no_grad(), full_precision(gram_PP):
        wide = gram_GPP.to(accumulation_dtype(gram_GPP))
        damping = check_damping(lam, relative)
        return factorise(wide, damping, statistics_dtype(gram_GPP))


def precondition(
    weight: Tensor,
    x_or_factor: Tensor | Factor,
    lam: float = 0.1,
    relative: bool = False,
) -> Tensor:
    r"""Identity on the weight; G becomes :math:`G (X^\top X / b + \lambda I)^{-1}`.

    G is the weight's gradient.

    Args:
        weight: W, ``[O, ...]`` with n entries a row.
        x_or_factor: the rows X, ``[..., n]`` (every vector a row), or a factor from
            `factor_from_gram`. Give the rows that the weight is multiplied with, not a
            detached copy: with fewer rows than entries they say whether the gradient
            comes from differentiating twice (`trainact.span`).
        lam: :math:`\lambda`, for rows; a factor has its own.
        relative: whether λ is in units of tr A / n, for rows.

    Returns:
        W, unchanged, as a view; W itself if it needs no gradient. Cost in the backward:
        one multiplication of G with an n x n matrix, or two with a b x n matrix if
        there are fewer rows than entries.

    Raises:
        ValueError: if the entries do not match or λ is not positive.
        TypeError: if ``relative`` is not a bool.

    Examples:
        >>> import torch, trainact
        >>> w = torch.zeros(1, 2, requires_grad=True)
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        >>> z = x @ trainact.functional.precondition(w, x, lam=0.1).T
        >>> z.sum().backward()
        >>> w.grad  # (1, 3) divided by (1/2 + 0.1, 9/2 + 0.1)
        tensor([[1.6667, 0.6522]])

    References:
        Petersen, Borgelt, Ermon: TrAct: Making First-layer Pre-Activations Trainable,
        NeurIPS 2024, Eq. 12 and Fig. 2.
    """
    is_factor = isinstance(x_or_factor, Factor)
    if not is_factor and x_or_factor.numel() == 0:
        msg = f"x has shape {tuple(x_or_factor.shape)}: there are no rows"
        raise ValueError(msg)
    entries = weight[0].numel()
    seen = x_or_factor.num_entries if is_factor else x_or_factor.shape[-1]
    if seen != entries:
        msg = (
            f"the weight of shape {tuple(weight.shape)} has {entries} entries a row, "
            f"the statistics {seen}: unfold the input, or use patch_gram with the "
            "layer's geometry"
        )
        raise ValueError(msg)
    damping = check_damping(lam, relative)
    if not (torch.is_grad_enabled() and weight.requires_grad):
        return weight
    if is_factor:
        return _precondition.precondition(weight, x_or_factor)
    factor = local_factor(x_or_factor, Geometry(entries), damping)
    return _precondition.precondition(weight, factor, Span(weight, x_or_factor))
