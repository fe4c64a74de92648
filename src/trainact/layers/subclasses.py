"""TrAct on layers of a class of their own: subclasses and parametrised layers.

What is preconditioned is the gradient of the effective weight, the one that the input
is multiplied with. From there autograd carries it through whatever made that weight
(standardisation, weight norm, a mask) to the parameters: G P, then the chain rule.

A layer of class C becomes one of three, made when they are first needed:

1. C computes what its parent does (it has no forward of its own): the parent's TrAct
   class and C.
2. C has a forward of its own: `TrActSubclass` and C. The forward runs as it is, and the
   calls of linear maps inside it are seen (`trainact.layers.linear_calls`).
3. C was made by ``torch.nn.utils.parametrize`` of a class B: the class that parametrize
   would have made of B's TrAct class. So the order of the two does not matter, and
   ``remove_parametrizations`` finds what it expects.
"""

from __future__ import annotations

from inspect import getattr_static
from typing import Any, cast

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from trainact.geometry import Geometry
from trainact.layers.guard import is_of_weight, warn, weight_parameters
from trainact.layers.linear_calls import LinearCalls
from trainact.layers.plain import (
    MADE_OF,
    SETTINGS,
    TRACT_CLASSES,
    TrActLayer,
    made_of,
    making_plain,
    refuse_proxy,
)
from trainact.precondition import may_be_transformed

_HIDDEN = (
    "the forward of {} has called none of torch.nn.functional.linear, conv1d, conv2d "
    "and conv3d with a weight that is trained, so TrAct has not seen its linear map: "
    "call one of them there, or take TrAct off with trainact.remove and use "
    "trainact.functional.precondition in the forward"
)
_HIDDEN_IN_PART = (
    "the weight of {} reaches its output also by another way than the calls of "
    "torch.nn.functional.linear, conv1d, conv2d and conv3d in its forward; what comes "
    "back that way is the ordinary gradient"
)


class TrActSubclass(TrActLayer):
    """A layer with a forward of its own, trained by TrAct; comes before its class.

    Cost beyond that of the plain types: a torch function mode around the forward, some
    microseconds for each function that it calls. None in eval mode, without gradients,
    or under `torch.compile`.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The forward of the layer's class, in which its linear map must be seen."""
        weights = self._trained_weights()
        parameters: Any = self.parameters()
        is_trained = weights or any(p.requires_grad for p in parameters)
        if not (self._is_training() and is_trained):
            return super().forward(*args, **kwargs)
        is_seen = False

        def mark(weight: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
            nonlocal is_seen
            refuse_proxy(x)
            if self._is_further_parameter(weight) or not self._gets_gradient(weight):
                return weight
            is_seen = True
            if not self._trains(weight, x):
                return weight
            return self._preconditioned(weight, x, geometry)

        calls = LinearCalls(mark, weights)
        with calls:
            z = super().forward(*args, **kwargs)
        if weights and not is_seen:
            raise RuntimeError(_HIDDEN.format(type(self).__name__))
        if calls.derives(z):
            warn(self, _HIDDEN_IN_PART.format(type(self).__name__))
        return z

    def _preconditioned(self, weight: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
        if self.tract.is_deferred and weight is not self.weight:
            msg = (
                f"trainact.deferred preconditions weight.grad at the optimizer's step, "
                f"but {type(self).__name__} computes with another weight, made of that "
                "one: accumulate without trainact.deferred"
            )
            raise RuntimeError(msg)
        return super()._preconditioned(weight, x, geometry)

    def _trained_weights(self) -> list[Tensor]:
        """Tensors of which the effective weight is made and that get a gradient."""
        # Hooks (pruning) and replicas keep it as an attribute that is no parameter.
        kept: list[Tensor] = [v for k, v in vars(self).items() if k == "weight"]
        return [w for w in weight_parameters(self) + kept if self._gets_gradient(w)]

    def _gets_gradient(self, tensor: Tensor) -> bool:
        """Whether it does, or may: under `torch.func` a stand-in need not say so."""
        parameters: Any = self.parameters()
        is_replaced = not any(isinstance(p, nn.Parameter) for p in parameters)
        return tensor.requires_grad or (is_replaced and may_be_transformed())

    def _is_further_parameter(self, weight: Tensor) -> bool:
        """Whether a linear map's weight is a parameter beside this layer's weight."""
        named: Any = self.named_parameters()
        return any(weight is p for name, p in named if not is_of_weight(name))


class _MadeHere(TrActLayer):
    """What the classes that `_class_for` makes have in common."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Pickle looks classes up by name, and would not find one made at run time.
        reduced: Any = super().__reduce_ex__(protocol)
        plain = plain_class(self)
        if plain is None or not isinstance(reduced, tuple):
            return reduced
        return _new, (plain,), *reduced[2:]


def tract_class(layer: nn.Module) -> type[TrActLayer]:
    """The class that puts TrAct on a layer of a supported class, a subclass of it."""
    kind: Any = type(layer)
    if is_parametrized_class(layer):
        made = _parametrized_again(kind, _class_for(kind.__bases__[0]))
        setattr(made, MADE_OF, kind)
        return made
    return _class_for(kind)


def plain_class(layer: nn.Module) -> type[nn.Module] | None:
    """The class that a layer has without TrAct; None if its class is not TrAct's.

    If it was parametrised since, the class that parametrize would have made of it.
    """
    kind: Any = type(layer)
    had = made_of(kind)
    if not is_parametrized_class(layer):
        return had
    if had and _properties(had) == _properties(kind):
        return had
    base = made_of(kind.__bases__[0])
    return base and _parametrized_again(kind, base)


def is_parametrized_class(layer: nn.Module) -> bool:
    """Whether ``torch.nn.utils.parametrize`` was the last to change a layer's class."""
    if not parametrize.is_parametrized(layer):
        return False
    names = cast("nn.ModuleDict", layer.parametrizations)
    return _properties(type(layer)) >= set(names)


def _properties(kind: type[nn.Module]) -> set[str]:
    return {name for name, value in vars(kind).items() if isinstance(value, property)}


def _parametrized_again(kind: Any, base: Any) -> Any:
    """A class with another base and what parametrize has put into the given one."""
    # A new one each time: remove_parametrizations removes its attributes.
    left_out = ("__module__", "__doc__", MADE_OF)
    own = {name: value for name, value in vars(kind).items() if name not in left_out}
    return type(f"Parametrized{base.__name__}", (base,), own)


def why_not_weight(layer: nn.Module) -> str | None:
    """Why a layer's weight cannot be trained, to follow its type in a sentence."""
    if parametrize.is_parametrized(layer, "weight"):
        # Not through layer.weight: spectral norm iterates whenever that is read.
        parts = cast("nn.ModuleDict", layer.parametrizations)["weight"].parameters()
    else:
        parts = [getattr(layer, "weight", None)]
    for weight in parts:
        if not isinstance(weight, Tensor):
            return " without a weight: TrAct needs a real floating one"
        if not weight.is_floating_point():
            return f" with a {weight.dtype} weight: TrAct needs a real floating one"
    return None


def why_not_subclass(layer: nn.Module) -> str | None:
    """Why a layer of another class is refused, to follow its type in a sentence."""
    if type(layer) in TRACT_CLASSES:
        return None
    # By name: the import would cost more than the core does.
    if any(base.__name__ == "FSDPModule" for base in type(layer).__mro__):
        return ", which fully_shard made of it: apply trainact before fully_shard"
    if parametrize.is_parametrized(layer) and not is_parametrized_class(layer):
        return (
            ", a class that something made of a parametrised layer: apply trainact "
            "before that"
        )
    if isinstance(layer, NonDynamicallyQuantizableLinear):
        return (
            ", whose weight nn.MultiheadAttention uses without calling the layer: "
            "TrAct could not see its input"
        )
    if hasattr(layer, "tract"):
        return (
            " with an attribute 'tract' of its own, a name that TrAct needs for "
            "itself: call it something else"
        )
    large = _large_parameters(layer)
    if large:
        return (
            f" that has parameters {', '.join(large)} beside its weight and bias, "
            "which TrAct would leave their ordinary gradients: put TrAct on plain "
            "layers, or use trainact.functional.precondition in its forward"
        )
    return None


def _large_parameters(layer: nn.Module) -> list[str]:
    """Parameters beside the weight that are more than a number for each output."""
    own = ("bias", "parametrizations.")
    outputs: Any = getattr(layer, "out_features", None) or layer.out_channels
    return [
        repr(name)
        for name, parameter in layer.named_parameters()
        if not (is_of_weight(name) or name.startswith(own))
        and parameter.numel() > outputs
    ]


def _class_for(kind: type[nn.Module]) -> type[TrActLayer]:
    plain = next(base for base in kind.__mro__ if base in TRACT_CLASSES)
    if kind is plain:
        return TRACT_CLASSES[plain]
    # A class holds its subclasses weakly: they are the cache.
    for subclass in kind.__subclasses__():
        if made_of(subclass) is kind:
            return cast("type[TrActLayer]", subclass)
    is_as_parent = all(
        getattr(kind, name, None) is getattr(plain, name, None)
        for name in ("forward", "_conv_forward")
    )
    parent = TRACT_CLASSES[plain] if is_as_parent else TrActSubclass
    own = {MADE_OF: kind, "__init__": making_plain(kind)}
    own |= {k: getattr_static(kind, k) for k in SETTINGS if hasattr(kind, k)}
    return type(f"TrAct{kind.__name__}", (_MadeHere, parent, kind), own)


def _new(plain: type[nn.Module]) -> TrActLayer:
    kind = _class_for(plain)
    return kind.__new__(kind)
