"""Linear and convolution layers that train their pre-activations.

A layer becomes one of these by a change of its class, in place: the Parameters, the
buffers, the hooks, the state dict's keys and the references that others hold all stay.
The forward and backward pass are the parent's; only the weight on its way into them is
marked for preconditioning, and only where a weight gradient will be computed.
"""

from __future__ import annotations

from functools import partial, wraps
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from trainact.damping import Lam, check_lam, check_relative, describe, unflatten
from trainact.geometry import Geometry, conv_geometry
from trainact.later import precondition_later
from trainact.layers.guard import note_call, watch
from trainact.layers.inputs import check_trainable, fits, nested_rows, refuse_proxy
from trainact.precondition import may_be_transformed, precondition
from trainact.sharding import is_sharded, local_input
from trainact.span import Span
from trainact.statistics.estimate import Estimate, check_estimate
from trainact.statistics.estimated import Estimator
from trainact.statistics.local import local_factor
from trainact.statistics.ranks import Group, precondition_over_ranks
from trainact.statistics.side_stream import can_overlap, start_beside
from trainact.torch_internals import backward_task

if TYPE_CHECKING:
    from trainact.statistics.microbatches import Accumulator


class TrActLayer(nn.Module):
    r"""What all layers trained by TrAct share: the damping :math:`\lambda`.

    Attributes:
        overlap: set it to True to make statistics on a CUDA or ROCm stream of their
            own, beside the rest of the forward pass. Without effect elsewhere, and for
            sync, estimates and deferred statistics; see
            `trainact.statistics.side_stream`.
    """

    _lam: float = 0.1
    _relative: bool = False
    ranks: Group | None = None
    accumulator: Accumulator | None = None
    estimator: Estimator | None = None
    overlap: bool = False
    # What `trainact.layers.guard` knows of the layer.
    tract_state: dict[str, bool]

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a copy, whose parameters have lost their hooks."""
        super().__setstate__(state)
        watch(self)

    @property
    def lam(self) -> float:
        r"""Damping :math:`\lambda`; may be changed, from the next call on."""
        return self._lam

    @lam.setter
    def lam(self, value: float) -> None:
        self._lam = check_lam(value)

    @property
    def relative(self) -> bool:
        """Whether ``lam`` is in units of tr A / n; may be changed likewise."""
        return self._relative

    @relative.setter
    def relative(self, value: bool) -> None:
        self._relative = check_relative(value)

    @property
    def damping(self) -> Lam:
        """Both, for the statistics."""
        return unflatten(self._lam, self._relative)

    @property
    def sync(self) -> Any:
        """Ranks that share statistics: False, True (all of them) or a process group."""
        return False if self.ranks is None else (self.ranks.group or True)

    @sync.setter
    def sync(self, value: Any) -> None:
        self.ranks = make_group(value)
        if self.estimator is not None:
            self.estimator.forget()

    @property
    def estimate(self) -> Estimate | None:
        """How statistics are made cheaper; None for exact ones. Setting starts anew."""
        return None if self.estimator is None else self.estimator.estimate

    @estimate.setter
    def estimate(self, value: Estimate | None) -> None:
        if self.accumulator is not None:
            msg = "leave trainact.deferred before you change a layer's estimate"
            raise RuntimeError(msg)
        checked = check_estimate(value)
        self.estimator = checked and Estimator(checked)

    def extra_repr(self) -> str:
        """The parent's description and λ.

        Returns:
            What `repr` shows between the brackets.
        """
        sync = "" if self.ranks is None else f", sync={self.ranks!r}"
        estimate = "" if self.estimate is None else f", estimate={self.estimate!r}"
        lam = describe(self.lam, self.relative)
        return f"{super().extra_repr()}, {lam}{sync}{estimate}"

    def _is_training(self) -> bool:
        """Whether gradients of this call are TrAct's: in training mode, with grad."""
        if not torch.is_grad_enabled():
            return False
        if not self.training and not torch.compiler.is_compiling():
            watch(self)  # the parameters may be others than at the conversion
        return self.training

    def _trains(self, weight: Tensor, x: Tensor) -> bool:
        """Whether this call will produce a weight gradient to precondition."""
        if not self._is_training():
            return False
        refuse_proxy(x)
        # A weight that torch.func has put in place of the Parameter does not say
        # whether it will get a gradient.
        in_doubt = not isinstance(weight, nn.Parameter) and may_be_transformed()
        if not (weight.requires_grad or in_doubt):
            return False
        note_call(self)
        check_trainable(x)
        return x.is_floating_point() and not x.is_meta

    def _marked(self, weight: Tensor, x: Tensor, geometry: Geometry | None) -> Tensor:
        """The weight, with its gradient to be preconditioned for this input."""
        ranks, span = self.ranks, Span(weight, x)
        if x.is_nested:
            x = nested_rows(x)
        if is_sharded(x):
            x, group = local_input(x, geometry)
            ranks = ranks or (group and Group(group))
        if self.accumulator is not None:
            return self.accumulator.observe(weight, x, geometry, span)  # pyright: ignore[reportAttributeAccessIssue]
        if self.estimator is not None:
            return self.estimator.precondition(  # pyright: ignore[reportAttributeAccessIssue]
                weight, x, geometry, self.damping, ranks, span
            )
        if ranks is not None and not ranks.is_alone():
            return precondition_over_ranks(
                weight, x, geometry, self.damping, ranks, span
            )
        if x.numel() == 0:
            return weight
        make = partial(local_factor, x, geometry, self.damping)
        if self.overlap and can_overlap(x):
            # A recomputed forward starts nothing: checkpointing may drop what it makes.
            is_recomputed = backward_task() != -1
            finish = make if is_recomputed else start_beside(x, make)
            return precondition_later(weight, None, lambda _: finish(), span)
        return precondition(weight, make(), span)


class TrActLinear(TrActLayer, nn.Linear):
    r"""`torch.nn.Linear` whose weight gradient is preconditioned.

    :math:`G (X^\top X / b + \lambda I)^{-1}`, with the input's vectors as the b rows of
    X. With fewer rows than ``in_features`` a b x b system is solved instead.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply the layer.

        Args:
            input: ``[..., in_features]``.

        Returns:
            ``[..., out_features]``, as `torch.nn.Linear` computes it.
        """
        weight = self.weight
        # An input that the layer cannot take is left to its own error message.
        if self._trains(weight, input) and fits(input, weight, None):
            weight = self._marked(weight, input, geometry=None)
        return F.linear(input, weight, self.bias)


class _TrActConv(TrActLayer):
    """The part that is common to all numbers of spatial dimensions."""

    def _conv_forward(
        self, input: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        if self._trains(weight, input):
            geometry = conv_geometry(self)
            if fits(input, weight, geometry):
                weight = self._marked(weight, input, geometry)
        return super()._conv_forward(input, weight, bias)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]


class TrActConv1d(_TrActConv, nn.Conv1d):
    r"""`torch.nn.Conv1d` whose weight gradient is preconditioned (per group)."""


class TrActConv2d(_TrActConv, nn.Conv2d):
    r"""`torch.nn.Conv2d` whose weight gradient is preconditioned (per group)."""


class TrActConv3d(_TrActConv, nn.Conv3d):
    r"""`torch.nn.Conv3d` whose weight gradient is preconditioned (per group)."""


def making_plain(plain: type[nn.Module]) -> Any:
    """The ``__init__`` of a class under TrAct: what calls that gets a plain layer.

    Libraries make more layers by ``type(layer)(...)``, as LoRA makes its adapters. Only
    `trainact.TrAct` and `trainact.apply` put TrAct on a layer.

    Args:
        plain: the class without TrAct.

    Returns:
        With the signature that the plain class has.
    """

    @wraps(plain.__init__)
    def initialise(self: nn.Module, *args: Any, **kwargs: Any) -> None:
        plain.__init__(self, *args, **kwargs)
        if made_of(type(self)) is plain:
            self.__class__ = plain
        else:
            watch(self)  # a class that a user has derived

    return initialise


TRACT_CLASSES: dict[type[nn.Module], type[TrActLayer]] = {
    nn.Linear: TrActLinear,
    nn.Conv1d: TrActConv1d,
    nn.Conv2d: TrActConv2d,
    nn.Conv3d: TrActConv3d,
}
# The attribute by which a class under TrAct names the class that it adds TrAct to.
MADE_OF = "_tract_made_of"
for _plain, _tract in TRACT_CLASSES.items():
    _tract.__init__ = making_plain(_plain)
    setattr(_tract, MADE_OF, _plain)


def made_of(kind: type[nn.Module]) -> type[nn.Module] | None:
    """The class that a class under TrAct adds TrAct to.

    Args:
        kind: any.

    Returns:
        None if it is not one that trainact has made.
    """
    return vars(kind).get(MADE_OF)


# What a converted layer may have in addition; by which further names it is reached.
ADDED = tuple(TrActLayer.__annotations__)
ADDED_NAMES = (*ADDED, *(k for k, v in vars(TrActLayer).items() if type(v) is property))


def make_group(sync: Any) -> Group | None:
    """Read the ``sync`` argument.

    Args:
        sync: False, True for all ranks, or a process group.

    Returns:
        None for False.

    Raises:
        ValueError: if it is something else.
    """
    if sync is None or sync is False:
        return None
    if sync is True:
        return Group()
    if dist.is_available() and sync is dist.GroupMember.NON_GROUP_MEMBER:
        msg = (
            "this process is not a member of the process group given as sync=: make "
            "one group for each set of ranks that train together, and pass each rank "
            "its own"
        )
        raise ValueError(msg)
    if hasattr(sync, "rank") and hasattr(sync, "size"):
        return Group(sync)
    msg = f"sync={sync!r} is not False, True or a torch.distributed process group"
    raise ValueError(msg)
