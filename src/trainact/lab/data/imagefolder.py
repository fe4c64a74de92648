"""Any folder of images: ``imagefolder:PATH``, decoded once into memory.

With ``--image-size S`` the shorter side is resized to S (bilinear, antialiased) and the
centre S x S is kept; without it all images must have one size. Grey images stay one
channel when every image is grey; otherwise all become RGB.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from trainact.lab.data.folder_listing import Listing, list_folder
from trainact.lab.data.images import ImageData, stratified_subset
from trainact.lab.errors import LabError

GREY_MODES = frozenset(("1", "L", "LA"))
DEEP_MODES = frozenset(("F", "I", "I;16", "I;16B", "I;16L"))
_NUM_THREADS = min(8, os.cpu_count() or 1)


def load(root: Path, image_size: int | None, limit: int | None) -> ImageData:
    """Decode a folder of images; with a limit only the chosen ones are read.

    Args:
        root: a folder in the ImageFolder layout, see `list_folder`.
        image_size: height and width to bring every image to, or None.
        limit: number of training images, chosen with every class keeping its share.

    Returns:
        The images in memory.
    """
    listing = list_folder(root)
    keep_N = stratified_subset(listing.train_labels, limit)
    train_files = [listing.train_files[index] for index in keep_N]
    images_NCHW = _decode([*train_files, *listing.test_files], image_size)
    return _assemble(listing, keep_N, images_NCHW)


def _assemble(
    listing: Listing, keep_N: NDArray[np.int64], images_NCHW: Tensor
) -> ImageData:
    return ImageData(
        images_NCHW[: len(keep_N)],
        torch.from_numpy(listing.train_labels[keep_N]),
        images_NCHW[len(keep_N) :],
        torch.from_numpy(listing.test_labels),
        listing.classes,
    )


def _decode(files: Sequence[Path], image_size: int | None) -> Tensor:
    if image_size is None:
        width, height = _open(files[0]).size
    else:
        width = height = image_size
    _check_memory(len(files), height, width)
    images_NHWC = np.empty((len(files), height, width, 3), dtype=np.uint8)

    def decode_into(index: int) -> bool:
        image = _open(files[index])
        is_grey = image.mode in GREY_MODES
        fitted = _fit(image, image_size, (width, height), files[index], files[0])
        images_NHWC[index] = np.asarray(fitted)
        return is_grey

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        pending = pool.map(decode_into, range(len(files)))
        try:
            all_grey = all(list(pending))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    num_channels = 1 if all_grey else 3
    images_NHWC = images_NHWC[..., :num_channels]
    return torch.from_numpy(images_NHWC).permute(0, 3, 1, 2).contiguous()


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file) as image:
            image.load()
    except Exception as error:  # Pillow raises many types on a damaged file
        raise LabError(
            f"cannot read image {file} ({type(error).__name__}): repair or remove it"
        ) from error
    if image.mode in DEEP_MODES:
        raise LabError(
            f"image {file} has more than 8 bits per channel ({image.mode}): convert "
            "it to 8 bits"
        )
    return image


def _fit(
    image: Image.Image,
    image_size: int | None,
    size: tuple[int, int],
    file: Path,
    first: Path,
) -> Image.Image:
    """Bring an image to RGB and to the common size."""
    if "transparency" in image.info:
        image = image.convert("RGBA")
    image = image.convert("RGB")
    if image.size == size:
        return image
    if image_size is None:
        raise LabError(
            f"images differ in size: {first} is {size[0]}x{size[1]} and {file} is "
            f"{image.width}x{image.height}; give --image-size"
        )
    shorter = min(image.size)
    left, top = (image.width - shorter) // 2, (image.height - shorter) // 2
    box = (left, top, left + shorter, top + shorter)
    return image.resize(size, Image.Resampling.BILINEAR, box=box)


def _check_memory(num_images: int, height: int, width: int) -> None:
    # Channels-last is decoded, channels-first is kept: both exist for a moment.
    needed = 2 * num_images * height * width * 3
    available = _available_memory()
    if available is not None and needed > available:
        raise LabError(
            f"{num_images:,} images of {height}x{width} need {needed / 2**30:.1f} GiB "
            f"while loading and {available / 2**30:.1f} GiB are free: give a smaller "
            "--image-size or a --limit"
        )


def _available_memory() -> int | None:
    """Bytes that can be taken now, or None where the system does not say."""
    with contextlib.suppress(OSError, KeyError, ValueError):
        text = Path("/proc/meminfo").read_text(encoding="ascii")
        fields = dict(line.split(":", 1) for line in text.splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None
