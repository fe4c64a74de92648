"""`trainact inspect`: the first layers of a model, what they see and what they cost."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trainact.lab.data import ImageData, load_data
from trainact.lab.data.normalise import Normalise
from trainact.lab.errors import LabError, check_positive
from trainact.lab.json_output import json_alone, json_text
from trainact.lab.options import InspectOptions
from trainact.lab.subject import (
    NUM_CLASSES,
    blank_image,
    build_named,
    find_layers,
    refusal,
)
from trainact.lab.survey import MAX_ENTRIES, Survey, survey

BATCH = 32


@dataclass(frozen=True)
class _Subject:
    """A model, the images to show it, and the first layers that were found."""

    model: nn.Module
    batches: list[Tensor]
    is_data: bool
    layers: dict[str, nn.Module]
    found_by: str


def main(options: InspectOptions) -> int:
    """Describe the first layers of a model.

    Args:
        options: what the user asked for.

    Returns:
        The exit code, 0.
    """
    with json_alone(options.json) as put:
        _check(options)
        subject = _prepare(options)
        surveys = _survey(options, subject)
        report = {
            name: _describe(options, subject, name, seen)
            for name, seen in surveys.items()
        }
        if options.json:
            put(json_text({"model": options.model, "layers": report}))
        else:
            sys.stdout.write("\n".join(_lines(options, subject, report)) + "\n")
    return 0


def _survey(options: InspectOptions, subject: _Subject) -> dict[str, Survey]:
    try:
        return survey(subject.model, subject.layers, subject.batches)
    except Exception as error:
        raise LabError(
            f"{options.model} does not take images of "
            f"{_size(subject.batches[0])} ({refusal(error)}): give --image-size or "
            "other --data"
        ) from error


def _check(options: InspectOptions) -> None:
    check_positive("--images", options.images)
    check_positive("--batch-size", options.batch_size)
    check_positive("--image-size", options.image_size)
    for lam in options.lam:
        check_positive("--lam", lam)


def _prepare(options: InspectOptions) -> _Subject:
    data = None if options.data is None else _load(options, options.data)
    torch.manual_seed(0)
    model, shape = build_named(
        options.model,
        options.image_size,
        data.image_shape if data else None,
        data.num_classes if data else NUM_CLASSES,
    )
    if data is not None:
        batches = list(_batches(data, options.pixels))
    else:
        batches = [blank_image(shape)]
    layers, found_by = find_layers(model, batches[0][:1], options.model, options.layer)
    return _Subject(model, batches, data is not None, layers, found_by)


def _load(options: InspectOptions, name: str) -> ImageData:
    try:
        return load_data(name, options.data_dir, options.image_size, options.images)
    except LabError as error:  # where the limit is not called so
        raise LabError(str(error).replace("--limit", "--images")) from error


def _batches(data: ImageData, pixels: str) -> Iterator[Tensor]:
    normalise = Normalise(*data.statistics)
    for images in data.train_images.split(BATCH):
        if pixels == "standardised":
            yield normalise(images)
        else:
            yield images.float() / (255 if pixels == "0-1" else 1)


def _describe(
    options: InspectOptions, subject: _Subject, name: str, seen: Survey
) -> dict[str, Any]:
    num_rows = seen.rows_per_image * options.batch_size
    size, groups = seen.num_entries, seen.num_groups
    is_primal = num_rows >= size
    kept = 4 * size * size if is_primal else num_rows * (4 * size + 8 * num_rows)
    report: dict[str, Any] = {
        "layer": repr(subject.layers[name]),
        "found_by": subject.found_by,
        "entries": size,
        "groups": groups,
        "rows_per_image": seen.rows_per_image,
        "form": "primal" if is_primal else "dual",
        "kept_bytes": groups * kept,
        "unfolded_bytes": 4 * groups * num_rows * size,
    }
    if subject.is_data:
        report |= _describe_data(options, seen)
    return report


def _describe_data(options: InspectOptions, seen: Survey) -> dict[str, Any]:
    report: dict[str, Any] = {
        "images": seen.num_images,
        "mean_square": seen.mean_square,
        "suggested_lam": seen.suggested_lam,
    }
    values = seen.eigenvalues()
    if values is None:
        return report
    report["eigenvalues"] = values.tolist()
    report["lam"] = {
        f"{lam:g}": {
            "effective_entries": float((values / (values + lam)).sum()),
            "condition_bound": float((values.max() + lam) / lam),
        }
        for lam in dict.fromkeys((*options.lam, seen.suggested_lam))
    }
    return report


def _lines(
    options: InspectOptions, subject: _Subject, report: dict[str, dict[str, Any]]
) -> Iterator[str]:
    yield f"{options.model}: first layers {', '.join(map(repr, report))}"
    yield f"found by {subject.found_by}"
    for name, layer in report.items():
        yield ""
        yield f"{name}  {layer['layer']}"
        groups = f" in each of {layer['groups']} groups" if layer["groups"] > 1 else ""
        yield f"  entries of a row (n)   {layer['entries']:,}{groups}"
        yield f"  rows for each image    {layer['rows_per_image']:,}"
        yield (
            f"  memory between passes  {_megabytes(layer['kept_bytes'])} "
            f"({layer['form']} form at {options.batch_size} images; the unfolded batch "
            f"would be {_megabytes(layer['unfolded_bytes'])})"
        )
        if subject.is_data:
            yield from _data_lines(options, layer)
    if not subject.is_data:
        yield ""
        yield "Give --data to see the spectrum of the input and a suggested lambda."


def _data_lines(options: InspectOptions, layer: dict[str, Any]) -> Iterator[str]:
    yield f"  seen                   {layer['images']} images, {options.pixels}"
    yield f"  mean square (tr A / n) {layer['mean_square']:.3g}"
    values = layer.get("eigenvalues")
    if values is None:
        yield f"  spectrum of A          not computed above {MAX_ENTRIES:,} entries"
    else:
        middle = values[len(values) // 2]
        yield (
            f"  spectrum of A          largest {values[-1]:.3g}, median {middle:.3g}, "
            f"smallest {values[0]:.2g}"
        )
        for lam, row in layer["lam"].items():
            yield (
                f"  lambda {lam:<8}        {row['effective_entries']:.1f} of "
                f"{len(values)} directions above it, condition number at most "
                f"{row['condition_bound']:.3g}"
            )
    yield (
        f"  suggested lambda       {layer['suggested_lam']:g} (the paper's 0.1 at the "
        "scale of this input; twice that for long training)"
    )


def _megabytes(number: int) -> str:
    return f"{number / 1e6:,.1f} MB"


def _size(batch: Tensor) -> str:
    return " x ".join(map(str, batch.shape[1:]))
