"""The statistics as operators of PyTorch: compiled code's ways, without a compiler.

Claims: an operator gives what eager code computes; what it says of its results' shapes
to a compiler is true; mapped over a batch of inputs it is called on each.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.tolerances import ORACLE_RTOL, relative_error
from trainact.damping import Damping
from trainact.factor import Factor, apply_factor, factorise_rows
from trainact.geometry import Geometry, make_geometry
from trainact.gram.patches import extract_patches
from trainact.statistics import operators

CONV = make_geometry(4, 3, 2, 1, 1, 2, "circular", num_spatial=2)
# Fewer rows than entries: of vectors, and of the patches of a grouped convolution.
FEW: dict[str, tuple[tuple[int, ...], Geometry]] = {
    "linear": ((3, 8), Geometry(8)),
    "conv": ((2, 4, 3, 3), CONV),
}
few = pytest.mark.parametrize("kind", FEW)
dtypes = pytest.mark.parametrize("dtype", [torch.float64, torch.float32])


def applied(factor: Factor) -> Tensor:
    """What a factor makes of the identity: (A + λI)⁻¹, or that where the rows reach."""
    wide = Factor(*(t if t is None else t.double() for t in factor))
    eye = torch.eye(factor.num_entries, dtype=torch.float64)
    return apply_factor(eye.repeat(len(factor.inner), 1), *wide)


@few
@dtypes
@pytest.mark.parametrize("lam", [Damping(0.3), Damping(0.3, relative=True)])
def test_dual_factor(kind: str, dtype: torch.dtype, lam: Damping) -> None:
    shape, geometry = FEW[kind]
    x = torch.randn(shape, dtype=dtype)
    found = operators.dual_factor(x, geometry, lam)
    truth = factorise_rows(extract_patches(x, geometry), lam)
    for kind_of in (Factor.in_span, Factor.transposed):
        one, other = applied(kind_of(found)), applied(kind_of(truth))
        assert relative_error(one, other) < ORACLE_RTOL


@few
@dtypes
def test_shapes_are_foretold(kind: str, dtype: torch.dtype) -> None:
    shape, geometry = FEW[kind]

    def results() -> list[Tensor]:
        x = torch.randn(shape, dtype=dtype)
        factor = operators.dual_factor(x, geometry, Damping(0.3))
        return [operators.gram(x, geometry), *factor]

    with FakeTensorMode():
        foretold = results()
    for one, two in zip(foretold, results(), strict=True):
        expected = (two.shape, two.dtype, two.stride())
        assert (one.shape, one.dtype, one.stride()) == expected


@few
@pytest.mark.parametrize("dim", [0, 1])
def test_a_batch_of_inputs(kind: str, dim: int) -> None:
    shape, geometry = FEW[kind]
    xs = torch.randn(5, *shape, dtype=torch.float64)

    def results(x: Tensor) -> tuple[Tensor, ...]:
        factor = operators.dual_factor(x, geometry, Damping(0.3))
        return operators.gram(x, geometry), applied(factor)

    mapped = torch.vmap(results, in_dims=dim)(xs.movedim(0, dim))
    truth = [results(x) for x in xs]
    for found, expected in zip(mapped, zip(*truth, strict=True), strict=True):
        assert relative_error(found, torch.stack(expected)) < ORACLE_RTOL
