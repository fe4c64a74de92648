"""A few made-up images with boxes, to try a recipe without a download."""

from __future__ import annotations

import numpy as np

from trainact.lab.data.images import SPLIT_SEED
from trainact.lab.detection.examples import Example, Objects

NUM_IMAGES = 2  # for training, and as many for testing
_HEIGHT, _WIDTH = 48, 64
_LABELS = (0, 6)  # aeroplane and car


def draw() -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Draw the images, always the same: a red and a blue rectangle on grey noise.

    Of the two objects in each, the second one of the last image is difficult.

    Returns:
        Two training and two test images of 3 x 48 x 64.
    """
    generator = np.random.default_rng(SPLIT_SEED)
    examples = [_draw_one(generator) for _ in range(2 * NUM_IMAGES)]
    examples[-1].objects.difficult[1] = True
    return tuple(examples[:NUM_IMAGES]), tuple(examples[NUM_IMAGES:])


def _draw_one(generator: np.random.Generator) -> Example:
    image = generator.integers(80, 120, (3, _HEIGHT, _WIDTH), dtype=np.uint8)
    boxes: list[tuple[int, int, int, int]] = []
    for number, channel in enumerate((0, 2)):
        left = number * _WIDTH // 2 + int(generator.integers(8))
        top = int(generator.integers(16))
        right, bottom = left + 24, top + 32
        image[:, top:bottom, left:right] = 0
        image[channel, top:bottom, left:right] = 255
        boxes.append((left, top, right, bottom))
    objects = Objects(
        np.array(boxes, dtype=np.float32),
        np.array(_LABELS, dtype=np.int64),
        np.zeros(2, dtype=np.bool_),
    )
    return Example(image, objects)
