"""A model that a user names, the images it takes, and its first layers."""

from __future__ import annotations

from inspect import signature

import torch
from torch import Tensor, nn

import trainact
from trainact.api import resolve_layer
from trainact.lab.errors import LabError, first_line
from trainact.lab.importing import (
    call_own,
    import_object,
    is_the_users,
    what_happened,
)
from trainact.lab.models import SOURCES, build_model, resolve_model

DEFAULT_SIZE = 224
NUM_CLASSES = 1000

# How models refuse an input that is not theirs.
_REFUSALS = (RuntimeError, ValueError, TypeError, AssertionError, IndexError)

Shape = tuple[int, int, int]


def build_named(
    name: str,
    image_size: int | None = None,
    data_shape: Shape | None = None,
    num_classes: int = NUM_CLASSES,
) -> tuple[nn.Module, Shape]:
    """Build a model by name, with random weights from torch's global generator.

    Args:
        name: as `trainact.lab.models.resolve_model` takes it, or
            ``PACKAGE.MODULE:FUNCTION``, which is called without arguments.
        image_size: height and width of the images, where the model does not say.
        data_shape: channels, height and width of the data, if there is any.
        num_classes: number of outputs.

    Returns:
        (the model, channels, height and width of the images it takes).
    """
    source, _, function = name.partition(":")
    if function and source not in SOURCES:
        size = image_size or DEFAULT_SIZE
        return _call(name), (3, size, size)
    resolved = resolve_model(name)
    shape = data_shape or _declared_shape(resolved, image_size)
    return build_model(resolved, shape, num_classes), shape


def _declared_shape(resolved: str, size: int | None) -> Shape:
    """Of the images that the model was made for."""
    if size is None and resolved.startswith("timm:"):
        import timm

        config = timm.get_pretrained_cfg(resolved.removeprefix("timm:"))
        if config is not None:
            channels, height, width = config.input_size
            return channels, height, width
    side = size or DEFAULT_SIZE
    return 3, side, side


def _call(reference: str) -> nn.Module:
    """A model of the user's own."""
    hint = f"; a source of models is {' or '.join(SOURCES)}"
    build = import_object("model", reference, hint)
    if not callable(build):
        raise LabError(
            f"model {reference} is of type {type(build).__name__}: name a function "
            "without arguments that returns a model"
        )
    try:
        signature(build).bind()
    except TypeError as error:
        raise LabError(
            f"model {reference} is called without arguments, which it does not take "
            f"({first_line(error)})"
        ) from error
    except ValueError:
        pass  # it does not say what it takes
    return call_own(f"model {reference}", build, kind=nn.Module)


def refusal(error: BaseException) -> str:
    """Say what a model raised when it was given images.

    Args:
        error: what it raised; where that is an error of this package, and not of the
            model or the images, it is raised again.

    Returns:
        One line.

    Raises:
        Exception: the error, if it is nothing that the user can put right.
    """
    if is_the_users(error):
        return what_happened(error)
    if isinstance(error, _REFUSALS):
        return first_line(error)
    raise error


def blank_image(shape: Shape) -> Tensor:
    """Make an image to follow through a model.

    Args:
        shape: channels, height and width.

    Returns:
        ``[1, C, H, W]``, all zero.

    Raises:
        LabError: if it does not fit into memory.
    """
    try:
        return torch.zeros(1, *shape)
    except RuntimeError as error:
        size = " x ".join(map(str, shape))
        raise LabError(
            f"an image of {size} does not fit into memory: give a smaller --image-size"
        ) from error


def find_layers(
    model: nn.Module, example: Tensor, name: str, layer: str | None = None
) -> tuple[dict[str, nn.Module], str]:
    """Find first layers by structure, checked by following an image.

    Where one of the two ways fails the other stands alone.

    Args:
        model: the model.
        example: an image to follow, ``[1, C, H, W]``.
        name: of the model, for messages.
        layer: the first layer, if the user named it.

    Returns:
        (qualified name -> layer, how that was found).

    Raises:
        LabError: if none is found, the two ways disagree, or the named one is unknown.
    """
    if layer is not None:
        try:
            return dict([resolve_layer(model, layer)]), "named by --layer"
        except ValueError as error:
            raise LabError(f"{name}: {error}") from error
    found: dict[str, dict[str, nn.Module]] = {}
    problems: dict[str, str] = {}
    for way, given in (("structure", None), ("following an image", example)):
        try:
            found[way] = trainact.first_layers(model, example_input=given)
        except Exception as error:
            problems[way] = refusal(error)
    if not found:
        reasons = "; ".join(f"by {way}: {text}" for way, text in problems.items())
        raise LabError(f"{name}: no first layer found ({reasons})")
    names = [list(layers) for layers in found.values()]
    if names[0] != names[-1]:
        raise LabError(
            f"{name}: the structure says {names[0]}, an image that is followed reaches "
            f"{names[1]}: name the first layer with --layer"
        )
    found_by = " and ".join(found)
    if problems:
        way, text = next(iter(problems.items()))
        found_by += f" (not by {way}: {text})"
    return next(iter(found.values())), found_by
