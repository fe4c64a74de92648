"""What does TrAct do to a layer? The spectrum of A, and where the step goes.

Off by default; nothing here runs unless it is called. Call it on a batch, every hundred
steps say, and log the fields. Cost: the unfolded batch in float64, and an eigenvalue
decomposition of A.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from trainact.factor import resolve
from trainact.geometry import Geometry
from trainact.gram.patches import batched, extract_patches
from trainact.layers.linear_calls import LinearCalls
from trainact.layers.plain import TrActLayer
from trainact.precision import full_precision, statistics_dtype

MAX_ENTRIES = 4096


@dataclass(frozen=True)
class Diagnostics:
    r"""Figures of one batch.

    Attributes:
        num_rows: b, rows of the unfolded batch.
        num_entries: n, entries of a row.
        lam: :math:`\lambda` that acts, mean over groups: if relative, times tr A / n;
            larger than was set where the rounding of A asks for it.
        eigenvalues: of A, ascending, ``[groups, n]``.
        condition_bound: :math:`(\max_i \mu_i + \lambda) / \lambda`, what the inverse
            may lose of the precision: relative error at most a few eps times this.
        effective_entries: :math:`\sum_i \mu_i / (\mu_i + \lambda)`, directions of the
            input that stand out of the damping.
        update_ratio: norm of TrAct's gradient over that of the ordinary one.
        update_cosine: cosine of the angle between the two; always positive.
        proposal_error: of the pre-activations' change that a step with TrAct's gradient
            makes, relative distance to the change asked for, :math:`b \nabla_z`
            (Eq. 3, Fig. 1).
        plain_proposal_error: the same for the ordinary gradient, at the step length
            that serves it best.
    """

    num_rows: int
    num_entries: int
    lam: float
    eigenvalues: Tensor
    condition_bound: float
    effective_entries: float
    update_ratio: float
    update_cosine: float
    proposal_error: float
    plain_proposal_error: float

    def scalars(self) -> dict[str, float]:
        """The fields that a logger takes.

        Returns:
            Name -> number, without the eigenvalues.
        """
        fields = asdict(self)
        del fields["eigenvalues"]
        return {name: float(value) for name, value in fields.items()}


def diagnose(layer: TrActLayer, x: Tensor, grad_z: Tensor) -> Diagnostics:
    r"""Measure what TrAct makes of one batch.

    The change of the pre-activations that an update :math:`\Delta W = -\eta D` makes is
    :math:`-\eta X D^\top`; asked for is :math:`-\eta b \nabla_z`. Both errors are
    relative to the latter, 0 where the step goes exactly as proposed; the ordinary
    gradient is scaled by the factor that minimises its error, since its step length has
    no natural unit.

    Args:
        layer: under TrAct.
        x: its input.
        grad_z: gradient of the loss with respect to its output, of the output's shape.

    Returns:
        The figures. Nothing is added to any ``.grad``.

    Raises:
        ValueError: if the layer is not under TrAct, computes several linear maps or has
            too many entries for a spectrum, or the gradient is not of the output's
            shape.

    Examples:
        >>> import torch, trainact
        >>> layer = trainact.TrAct(torch.nn.Linear(2, 1))
        >>> x = torch.tensor([[1.0, 0.0], [0.0, 3.0]])
        >>> figures = trainact.diagnostics.diagnose(layer, x, torch.ones(2, 1))
        >>> figures.eigenvalues
        tensor([[0.5000, 4.5000]], dtype=torch.float64)
        >>> round(figures.condition_bound, 3), round(figures.proposal_error, 3)
        (46.0, 0.119)

    References:
        Petersen, Borgelt, Ermon: TrAct: Making First-layer Pre-Activations Trainable,
        NeurIPS 2024, Eq. 3 and Fig. 1.
    """
    x, geometry = _check(layer, x, grad_z)
    with torch.no_grad(), full_precision(x):
        rows_GNP = extract_patches(x.detach(), geometry).double()
        grad_GNO = gradient_rows(grad_z, geometry).double()
        _, num_rows, num_entries = rows_GNP.shape
        values_GP, vectors_GPP = torch.linalg.eigh(rows_GNP.mT @ rows_GNP / num_rows)
        values_GP = values_GP.clamp(min=0)
        plain_GOP = grad_GNO.mT @ rows_GNP
        is_dual = num_rows < num_entries
        dtype = rows_GNP.dtype if is_dual else statistics_dtype(x)
        trace_G = values_GP.sum(-1)
        damping_G = resolve(layer.tract.damping, trace_G, num_entries, dtype)
        damped_GP = values_GP + damping_G[:, None]
        tract_GOP = (plain_GOP @ vectors_GPP / damped_GP[:, None]) @ vectors_GPP.mT
        asked_GNO = num_rows * grad_GNO
        plain_GNO, tract_GNO = rows_GNP @ plain_GOP.mT, rows_GNP @ tract_GOP.mT
        best_scale = (plain_GNO * asked_GNO).sum() / plain_GNO.square().sum()
        return Diagnostics(
            num_rows=num_rows,
            num_entries=num_entries,
            lam=float(damping_G.mean()),
            eigenvalues=values_GP,
            condition_bound=float((damped_GP.amax(-1) / damping_G).max()),
            effective_entries=float((values_GP / damped_GP).sum()),
            update_ratio=float(tract_GOP.norm() / plain_GOP.norm()),
            update_cosine=float(
                (tract_GOP * plain_GOP).sum() / (tract_GOP.norm() * plain_GOP.norm())
            ),
            proposal_error=_relative_distance(tract_GNO, asked_GNO),
            plain_proposal_error=_relative_distance(best_scale * plain_GNO, asked_GNO),
        )


def _check(layer: TrActLayer, x: Tensor, grad_z: Tensor) -> tuple[Tensor, Geometry]:
    """The input of the layer's linear map (padded, say), and its geometry."""
    if not isinstance(layer, TrActLayer):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"diagnose takes a layer under TrAct, not {type(layer).__name__}"
        raise ValueError(msg)  # noqa: TRY004
    calls: list[tuple[Tensor, Geometry]] = []

    def note(weight: Tensor, seen: Tensor, geometry: Geometry) -> Tensor:
        calls.append((seen, geometry))
        return weight

    with torch.no_grad(), LinearCalls(note):
        expected = layer(x).shape
    if len(calls) != 1:
        msg = (
            f"{type(layer).__name__} computes {len(calls)} linear maps in its forward: "
            "diagnose describes one"
        )
        raise ValueError(msg)
    num_entries = calls[0][1].num_entries
    if num_entries > MAX_ENTRIES:
        msg = (
            f"a spectrum of {num_entries} entries is too large to compute (limit "
            f"{MAX_ENTRIES}): diagnose a layer with smaller patches"
        )
        raise ValueError(msg)
    if grad_z.shape != expected:
        msg = (
            f"grad_z has shape {tuple(grad_z.shape)}, the layer's output "
            f"{tuple(expected)}: pass the gradient with respect to the output"
        )
        raise ValueError(msg)
    return calls[0]


def gradient_rows(grad_z: Tensor, geometry: Geometry) -> Tensor:
    """The gradient of a layer's output, in the order of its rows: ``[G, N, O]``."""
    grouped = batched(grad_z, geometry).movedim(1, -1)
    grouped = grouped.unflatten(-1, (geometry.groups, -1))
    return grouped.reshape(-1, *grouped.shape[-2:]).movedim(1, 0)


def _relative_distance(value: Tensor, target: Tensor) -> float:
    return float((value - target).norm() / target.norm())
