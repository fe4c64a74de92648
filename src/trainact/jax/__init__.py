"""TrAct for JAX: the same method as pure functions, under every transformation.

`tract_dense` and `tract_conv` take the place of a first layer's ``x @ w + b`` and
`jax.lax.conv_general_dilated`; `ConvGeneralDilated` and `DotGeneral` are the same as
operations, for layers that take one. The other names are the steps they are made of.

`trainact.jax.nnx`, `trainact.jax.linen` and `trainact.jax.equinox` put TrAct on layers
of Flax and Equinox; each is imported by its name.
"""

from trainact.jax.needs import need

need("jax")

from trainact.jax.conv import conv_sums, tract_conv
from trainact.jax.dense import dense_sums, tract_dense
from trainact.jax.factor import Factor
from trainact.jax.functional import (
    factorise,
    patch_gram,
    precondition,
    precondition_gradient,
)
from trainact.jax.operations import ConvGeneralDilated, DotGeneral
from trainact.jax.sums import GramSums

__all__ = [
    "ConvGeneralDilated",
    "DotGeneral",
    "Factor",
    "GramSums",
    "conv_sums",
    "dense_sums",
    "factorise",
    "patch_gram",
    "precondition",
    "precondition_gradient",
    "tract_conv",
    "tract_dense",
]
