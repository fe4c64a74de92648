"""Example inputs, constructed from what a model says that it takes.

They are proposals only: one that the model's forward accepts shows, when traced, which
layers such an input reaches. One that it does not accept shows nothing.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainact.find.by_structure import CONVS, IMAGE_CHANNELS, inputs
from trainact.find.by_tracing import unwrapped

Size = tuple[int, ...]

BATCH = 2
SIZE_NAMES = ("image_size", "img_size", "input_size", "resolution", "input_resolution")
USUAL_SIDES = (224, 32, 28, 64, 96, 256, 384, 512, 1024, 1536)
USUAL_FRAMES = (16, 8, 32, 2)
USUAL_LENGTHS = (16, 196, 1024)
MOST_SIZES = 12

# Arguments of forward() by their names, in Transformers and in diffusion models.
IMAGE_NAMES = ("pixel_values", "pixel_values_videos", "images", "image", "inputs")
# Token ids, and boxes around the tokens: per image.
INDEX_SHAPES = {
    "input_ids": (8,),
    "decoder_input_ids": (8,),
    "bbox": (8, 4),
    "task_inputs": (77,),
}
PACKING_NAMES = ("spatial_shapes", "pixel_attention_mask")
KNOWN_NAMES = {*IMAGE_NAMES, *INDEX_SHAPES, *PACKING_NAMES}
TIME_NAMES = ("t", "time", "timestep", "timesteps", "sigma", "noise_labels")


def make_examples(
    model: nn.Module, candidates: Sequence[nn.Module]
) -> Iterator[tuple[Any, ...] | dict[str, Any]]:
    """Propose positional or keyword arguments, the likeliest first.

    Read are the model's ``config`` (Transformers), its ``pretrained_cfg`` (timm) and
    attributes such as ``image_size``; candidates for the first layer tell the channels.
    Tensors are on the meta device, except indices.
    """
    parameters = [
        p
        for p in inspect.signature(unwrapped(model).forward).parameters.values()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    names = [p.name for p in parameters]
    required = [p.name for p in parameters if p.default is p.empty]
    sizes = _sizes(model)
    is_known = KNOWN_NAMES.issuperset(required or names[:1])
    if is_known and not set(IMAGE_NAMES).isdisjoint(names):
        for image in _images(model, candidates, sizes):
            yield from _by_name(names, image)
    elif is_known:
        yield _indices(names)
    else:
        if len(required) > 1 and len(candidates) > 1:
            yield from _one_per_stream(model, required, candidates, sizes)
        for image in _images(model, candidates, sizes):
            yield tuple(_argument(n, i, image) for i, n in enumerate(required or ["x"]))


def _images(
    model: nn.Module, candidates: Sequence[nn.Module], sizes: list[Size]
) -> Iterator[Tensor]:
    """Images by timm's metadata, those that candidates take, colour and grey ones."""
    claimed = _get(getattr(model, "pretrained_cfg", None), "input_size")
    said = [tuple(claimed)] if isinstance(claimed, tuple | list) else []
    likeliest = sorted(candidates, key=lambda layer: not _takes_images(layer))
    shapes = itertools.chain(
        said,
        *(_shapes(layer, sizes) for layer in likeliest),
        ((channels, *size[-2:]) for channels in (3, 1) for size in sizes),
    )
    for shape in dict.fromkeys(shapes):
        yield _empty(model, shape)


def _empty(model: nn.Module, shape: Size) -> Tensor:
    """A batch in the precision of the model: layers refuse inputs in another."""
    dtypes = (p.dtype for p in model.parameters() if p.is_floating_point())
    dtype = next(dtypes, torch.float32)
    return torch.empty((BATCH, *shape), dtype=dtype, device="meta")


def _takes_images(layer: nn.Module) -> bool:
    return isinstance(layer, CONVS) and (inputs(layer) or 0) <= IMAGE_CHANNELS


def _argument(name: str, position: int, image: Tensor) -> Tensor:
    if name in TIME_NAMES and position > 0:
        return torch.ones(len(image), dtype=torch.long)
    return image


def _by_name(names: list[str], image: Tensor) -> Iterator[dict[str, Any]]:
    """An image alone, then with the indices that the model may want beside it."""
    image_name = next(n for n in IMAGE_NAMES if n in names)
    given = {image_name: image}
    if "spatial_shapes" in names and image.ndim == 3:
        given |= _packing(image)
    indices = _indices(names)
    for count in range(len(indices) + 1):
        for chosen in itertools.combinations(indices.items(), count):
            yield {**given, **dict(chosen)}


def _indices(names: list[str]) -> dict[str, Tensor]:
    return {
        name: torch.ones(BATCH, *shape, dtype=torch.long)
        for name, shape in INDEX_SHAPES.items()
        if name in names
    }


def _packing(patches: Tensor) -> dict[str, Tensor]:
    """Where patches that come as sequences (NaViT) lie in their images."""
    length = patches.shape[1]
    return {
        "spatial_shapes": torch.full((BATCH, 2), math.isqrt(length)),
        "pixel_attention_mask": torch.ones(BATCH, length, dtype=torch.long),
    }


def _one_per_stream(
    model: nn.Module,
    required: list[str],
    candidates: Sequence[nn.Module],
    sizes: list[Size],
) -> Iterator[tuple[Any, ...]]:
    """One input per stream, the streams in the order of registration."""
    first = candidates[: len(required)]
    for options in zip(*(_shapes(layer, sizes) for layer in first), strict=False):
        images = [_empty(model, shape) for shape in options]
        if len(images) == len(required):
            yield tuple(images)


def _shapes(layer: nn.Module, sizes: list[Size]) -> Iterator[Size]:
    """Shapes of inputs for which a layer of this kind could be the first one."""
    taken = inputs(layer)
    for kind, propose in _PROPOSALS.items():
        if isinstance(layer, kind) and taken:
            yield from propose(taken, sizes)


def _of_vectors(taken: int, sizes: list[Size]) -> Iterator[Size]:
    """Vectors, images to be flattened or cut into patches, and sequences."""
    yield (taken,)
    for channels in _square_channels(taken):
        side = math.isqrt(taken // channels)
        yield from ((channels, *size[-2:]) for size in (*sizes, (side, side)))
    yield from ((length, taken) for length in USUAL_LENGTHS)


def _of_signals(taken: int, _: list[Size]) -> Iterator[Size]:
    return ((taken, length) for length in USUAL_LENGTHS)


def _of_images(taken: int, sizes: list[Size]) -> Iterator[Size]:
    """Images, and clips of them in both orders."""
    yield from ((taken, *size[-2:]) for size in sizes)
    for frames, size in itertools.product(USUAL_FRAMES, sizes[:2]):
        yield (frames, taken, *size[-2:])
        yield (taken, frames, *size[-2:])


def _of_volumes(taken: int, sizes: list[Size]) -> Iterator[Size]:
    """Clips in both orders, and cubes."""
    for size in sizes:
        for frames in USUAL_FRAMES if len(size) == 2 else (size[0],):
            yield (taken, frames, *size[-2:])
            yield (frames, taken, *size[-2:])
        yield (taken, size[-1], size[-1], size[-1])


_PROPOSALS: dict[type[nn.Module], Callable[[int, list[Size]], Iterator[Size]]] = {
    nn.Linear: _of_vectors,
    nn.Conv1d: _of_signals,
    nn.Conv2d: _of_images,
    nn.Conv3d: _of_volumes,
}


def _square_channels(taken: int) -> list[int]:
    """Channels that a square image or patch with so many entries could have."""
    return [
        channels
        for channels in (3, 1, 4, 2)
        if math.isqrt(taken // channels) ** 2 * channels == taken
    ]


def _sizes(model: nn.Module) -> list[Size]:
    """Spatial sizes of an image: those that the model names, then the usual ones."""
    named = [
        size
        for source in _sources(model)
        for name in SIZE_NAMES
        if (size := _as_size(_get(source, name))) is not None
    ]
    usual = [(side, side) for side in USUAL_SIDES]
    return list(dict.fromkeys((*named, *usual)))[:MOST_SIZES]


def _sources(model: nn.Module) -> Iterator[Any]:
    """Objects that may name the size of an image."""
    for module in model.modules():
        for name in ("config", "pretrained_cfg"):
            config = getattr(module, name, None)
            if config is not None:
                yield config
                yield getattr(config, "vision_config", None)
        yield module


def _get(source: Any, name: str) -> Any:
    if isinstance(source, Mapping):
        return cast("Mapping[str, Any]", source).get(name)
    return getattr(source, name, None)


def _as_size(value: Any) -> Size | None:
    """A height and width, after a number of frames perhaps."""
    if isinstance(value, Mapping):
        value = [value.get("height"), value.get("width")]
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value, value]
    if not isinstance(value, tuple | list) or not 2 <= len(value) <= 3:
        return None
    sizes = tuple(value)
    if len(sizes) == 3 and sizes[0] <= 4:
        sizes = sizes[1:]  # channels first, as timm has it
    return sizes if all(isinstance(s, int) and s > 0 for s in sizes) else None
