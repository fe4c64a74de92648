"""A factor that the backward asks for is made once, however often it is asked for."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.cases import oracle_gradient
from tests.tolerances import ORACLE_RTOL, relative_error
from trainact.damping import Damping
from trainact.factor import Factor
from trainact.geometry import Geometry
from trainact.precondition import precondition_later
from trainact.statistics.local import local_factor


def test_two_backward_passes_of_one_forward() -> None:
    layer = nn.Linear(7, 2, dtype=torch.float64)
    x, grad_z = (torch.randn(30, n, dtype=torch.float64) for n in (7, 2))
    made: list[Factor] = []

    def make(x: Tensor) -> Factor:
        made.append(local_factor(x, Geometry(x.shape[-1]), Damping(0.1)))
        return made[-1]

    z = x @ precondition_later(layer.weight, x, make).T
    assert not made
    z.backward(grad_z, retain_graph=True)
    z.backward(2 * grad_z)
    truth = 3 * oracle_gradient(layer, x, grad_z, 0.1)
    assert relative_error(layer.weight.grad, truth) < ORACLE_RTOL
    assert len(made) == 1
