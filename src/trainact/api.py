"""What users call: put TrAct on a layer or model, take it off, split the parameters."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from functools import partial
from typing import Any, TypeVar

from torch import nn

from trainact.find.first_layers import check_supported, first_layers, list_candidates
from trainact.layers.guard import unwatch, watch
from trainact.layers.plain import TrActLayer
from trainact.layers.state import State
from trainact.layers.subclasses import plain_class, tract_class
from trainact.statistics.estimated import Estimate

LayerT = TypeVar("LayerT", bound=nn.Module)
ModelT = TypeVar("ModelT", bound=nn.Module)
LayerChoice = str | nn.Module | Iterable[str | nn.Module]


def TrAct(  # noqa: N802
    layer: LayerT,
    lam: float = 0.1,
    sync: Any = False,
    estimate: Estimate | None = None,
    relative: bool = False,
) -> LayerT:
    r"""Train a layer's pre-activations instead of its weights.

    In the backward pass the weight gradient G becomes
    :math:`G (X^\top X / b + \lambda I)^{-1}`, where the b rows of X are the layer's
    unfolded input. Everything else is as before: the forward pass, the gradients of
    bias and input, the Parameter objects, the state dict, hooks, dtype and device.

    Args:
        layer: `torch.nn.Linear`, `Conv1d`, `Conv2d` or `Conv3d` with any settings, a
            subclass of one, or one that is parametrised. It is converted in place.
        lam: :math:`\lambda`, positive. The paper's default is 0.1; smaller is more
            aggressive (short training), 0.2 suits long training. Later: ``layer.lam``.
        sync: ranks that share statistics. False: each its own, as in the paper's code.
            True or a process group: all of them, so that N devices compute the update
            of one device; every rank must then run the layer in every step.
        estimate: cheaper statistics than those of every batch, all of it; see
            `Estimate`. Later: ``layer.estimate``.
        relative: whether ``lam`` is in units of the mean square of the input's entries,
            tr A / n, about 1 for standardised inputs; see ``docs/extensions.md`` for
            what that does not help with. Later: ``layer.relative``.

    Returns:
        The same object, now a `TrActLinear` or `TrActConv1d`/`2d`/`3d`, which are
        subclasses of what it was, or of a class made of its own class, where G is the
        gradient of the effective weight.

    Raises:
        TypeError: if ``layer`` is not a module, ``estimate`` not an `Estimate` or
            ``relative`` not a bool.
        ValueError: if the layer is of another type, lazy and without a weight, or under
            TrAct already, or if λ is not positive. A subclass whose forward computes
            its linear map in a way that TrAct cannot see raises a RuntimeError there.

    Cost: per training step a Gram matrix of the input's patches and the factorisation
    of an n x n matrix (b x b if b < n); nothing in eval mode, without gradients or with
    a frozen weight.

    Examples:
        >>> import torch, trainact
        >>> trainact.TrAct(torch.nn.Conv2d(3, 64, 3), lam=0.1)
        TrActConv2d(3, 64, kernel_size=(3, 3), stride=(1, 1), lam=0.1)

    References:
        Petersen, Borgelt, Ermon: TrAct: Making First-layer Pre-Activations Trainable,
        NeurIPS 2024, Eq. 10 and Fig. 2.
    """
    if not isinstance(layer, nn.Module):  # pyright: ignore[reportUnnecessaryIsInstance]
        msg = f"TrAct takes a layer (an nn.Module), not {type(layer).__name__}"
        raise TypeError(msg)
    state = State(lam, relative, sync, estimate)
    check_supported("", layer)
    return _convert(layer, state)


def apply(
    model: ModelT,
    lam: float = 0.1,
    layer: LayerChoice | None = None,
    example_input: Any = None,
    sync: Any = False,
    estimate: Estimate | None = None,
    relative: bool = False,
) -> ModelT:
    r"""Put TrAct on a model's first layer or layers, in place.

    Args:
        model: any module that has a Linear or Conv1d/2d/3d as its first layer.
        lam: :math:`\lambda`, positive; see `TrAct`.
        layer: the first layer, if you would rather name it: a qualified name such as
            ``"patch_embed.proj"``, a module of the model, or several of these.
        example_input: a tensor (or tuple, or dict of arguments) to follow through the
            model, if its structure does not tell; see `first_layers`.
        sync: ranks that share statistics: False, True or a process group; see `TrAct`.
        estimate: cheaper statistics, if you accept an update that is not exact; see
            `Estimate`.
        relative: whether ``lam`` is in units of the mean square of the input's entries;
            see `TrAct`.

    Returns:
        The same model. If anything is refused, nothing has been changed.

    Raises:
        ValueError: if a layer is unknown, unsupported or under TrAct already, if the
            first layer cannot be told (the message lists candidates), or if λ is not
            positive.
        TypeError: if ``estimate`` is not an `Estimate` or ``relative`` not a bool.

    Examples:
        >>> import torch, trainact
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU())
        >>> trainact.apply(model)
        Sequential(
          (0): TrActConv2d(1, 8, kernel_size=(3, 3), stride=(1, 1), lam=0.1)
          (1): ReLU()
        )
    """
    make_state = partial(State, lam, relative, sync, estimate)
    make_state()  # what is wrong with the settings is said first
    if layer is None:
        chosen = first_layers(model, example_input)
    else:
        is_one = isinstance(layer, str | nn.Module)
        chosen = dict(resolve_layer(model, a) for a in ([layer] if is_one else layer))
        if not chosen:
            msg = f"layer= names no layer. {list_candidates(model)}"
            raise ValueError(msg)
    for name, module in chosen.items():
        check_supported(name, module)
    for module in chosen.values():
        _convert(module, make_state())
    return model


def remove(model: ModelT) -> ModelT:
    """Make every layer under TrAct a plain layer again, in place.

    Args:
        model: a model, or a single layer.

    Returns:
        The same object, with the same Parameters; a model without TrAct is left alone.

    Raises:
        ValueError: if a layer's class was changed since, or a layer is inside
            `trainact.deferred`. Nothing has been changed then.

    Examples:
        >>> import torch, trainact
        >>> trainact.remove(trainact.TrAct(torch.nn.Linear(3, 2)))
        Linear(in_features=3, out_features=2, bias=True)
    """
    layers = tract_layers(model)
    for name, module in layers.items():
        if plain_class(module) is None:
            msg = (
                f"layer {name!r} is a {type(module).__name__}, which something made of "
                "the TrAct layer (as fully_shard does): undo that first"
            )
            raise ValueError(msg)
        if module.tract.is_deferred:
            msg = f"layer {name!r} is inside trainact.deferred: leave that block first"
            raise ValueError(msg)
    for module in layers.values():
        unwatch(module)
        module.__class__ = plain_class(module)  # pyright: ignore[reportAttributeAccessIssue]
        del module.tract
    return model


def tract_layers(model: nn.Module) -> dict[str, TrActLayer]:
    """List the layers that TrAct is on.

    Args:
        model: a model, or a single layer.

    Returns:
        Qualified name -> layer.
    """
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, TrActLayer)
    }


def split_parameters(
    model: nn.Module,
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Separate the parameters of the layers under TrAct from the rest.

    For optimizer groups of their own: the paper's "TrAct w/ SGD" (Fig. 9) trains the
    first layer with SGD and the rest with Adam.

    Args:
        model: a model that TrAct has been applied to.

    Returns:
        (parameters of the TrAct layers, all other parameters), each in model order.

    Raises:
        ValueError: if no layer is under TrAct.

    Examples:
        >>> import torch, trainact
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2))
        >>> first, rest = trainact.split_parameters(trainact.apply(model))
        >>> sgd = torch.optim.SGD(first, lr=0.1, momentum=0.9)
        >>> adam = torch.optim.Adam(rest, lr=1e-3)
        >>> [p.numel() for p in first], [p.numel() for p in rest]
        ([32, 8], [16, 2])
    """
    layers = tract_layers(model)
    if not layers:
        msg = "no layer of this model is under TrAct: call trainact.apply(model) first"
        raise ValueError(msg)
    return parameters_of(model, layers.values())


def parameters_of(
    model: nn.Module, layers: Iterable[nn.Module]
) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """(Parameters of the given layers, all others), each in model order."""
    chosen = {id(p) for layer in layers for p in layer.parameters()}
    first = [p for p in model.parameters() if id(p) in chosen]
    return first, [p for p in model.parameters() if id(p) not in chosen]


def _convert(layer: LayerT, state: State) -> LayerT:
    layer.__class__ = tract_class(layer)  # pyright: ignore[reportAttributeAccessIssue]
    vars(layer)["tract"] = state
    watch(layer)
    return layer


def resolve_layer(model: nn.Module, layer: str | nn.Module) -> tuple[str, nn.Module]:
    """The qualified name and the module of a layer that a user names by either.

    The ValueError where it is not found lists candidates.
    """
    modules = dict(model.named_modules())
    if isinstance(layer, str):
        try:
            layer = model.get_submodule(layer)  # also by its second name
        except AttributeError:
            close = difflib.get_close_matches(layer, modules, n=3)
            hint = f"Did you mean {' or '.join(map(repr, close))}? " if close else ""
            msg = f"the model has no layer {layer!r}. {hint}{list_candidates(model)}"
            raise ValueError(msg) from None
    for name, module in modules.items():
        if module is layer:
            return name, module
    msg = f"the given {type(layer).__name__} is not part of the model"
    raise ValueError(msg)
