"""Images with boxes by name: ``voc2007``, ``voc:PATH`` or ``smoke-voc``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from trainact.lab.data.image_set import ImageSet
from trainact.lab.data.images import SPLIT_SEED
from trainact.lab.detection.examples import Example
from trainact.lab.errors import LabError, did_you_mean

DOWNLOADED = "voc2007"
FOLDER_PREFIX = "voc:"
SMOKE = "smoke-voc"
NAMES = (DOWNLOADED, f"{FOLDER_PREFIX}PATH", SMOKE)
# The shorter side of an image as Faster R-CNN sees it.
DEFAULT_SIZE = 600


@dataclass(frozen=True)
class DetectionData(ImageSet):
    """Images with boxes, read one by one when they are wanted.

    Attributes:
        train: to train on.
        test: to test on; at least one object is not difficult.
        classes: names; a label is an index into them.
        image_size: to which an image's shorter side is brought by the model.
    """

    train: tuple[Example, ...]
    test: tuple[Example, ...]
    classes: tuple[str, ...]
    image_size: int = DEFAULT_SIZE

    def __post_init__(self) -> None:
        if all(each.objects.difficult.all() for each in self.test):
            raise LabError(
                "no test image holds an object that is not difficult: average "
                "precision needs one"
            )

    @property
    def num_train(self) -> int:
        """Number of training images."""
        return len(self.train)

    @property
    def num_test(self) -> int:
        """Number of test images."""
        return len(self.test)

    @property
    def is_on_disk(self) -> bool:
        """Whether images are files."""
        return any(isinstance(each.image, Path) for each in self.train)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what `sample` returns."""
        return 3, self.image_size, self.image_size

    def measured(self) -> Iterator[Tensor]:
        """Give all training images.

        Yields:
            Bytes [1, 3, H, W].
        """
        for example in self.train:
            yield example.read()[None]

    def identity(self) -> Iterator[bytes | memoryview]:
        """Give files and boxes.

        Yields:
            Parts.
        """
        for part in (self.train, self.test):
            yield str(len(part)).encode()
            for example in part:
                content, objects = example.content(), example.objects
                yield f"{len(content)} {len(objects.labels)} ".encode()
                yield content
                for array in (objects.boxes, objects.labels, objects.difficult):
                    yield array.tobytes()

    def sample(self, count: int) -> Tensor:
        """Draw training images, the same ones every time, brought to squares.

        Args:
            count: how many, or all where there are fewer.

        Returns:
            Bytes [count, 3, S, S], where S is `image_size`.
        """
        squares = [
            _to_square(example.read(), self.image_size)
            for example in _draw(self.train, count)
        ]
        return torch.stack(squares)

    def limited(self, limit: int | None) -> DetectionData:
        """Keep a part of the training images, always the same; the test images stay.

        Args:
            limit: number of training images, or None for all.

        Returns:
            The smaller set.
        """
        if limit is None or limit >= self.num_train:
            return self
        return replace(self, train=tuple(_draw(self.train, limit)))


def load_detection(
    spec: str, data_dir: Path, image_size: int | None = None, limit: int | None = None
) -> DetectionData:
    """Find images with boxes, downloading them where they are not there yet.

    Args:
        spec: ``voc2007``, ``voc:PATH``, or ``smoke-voc`` for a few made-up images.
        data_dir: where downloads go.
        image_size: to which an image's shorter side is brought, 600 by default.
        limit: number of training images, or None for all.

    Returns:
        The images, not decoded yet.

    Raises:
        LabError: if the set is not known.
    """
    from trainact.lab.detection import smoke, voc

    if spec == SMOKE:
        train, test = smoke.draw()
    elif spec == DOWNLOADED:
        train, test = voc.download(data_dir)
    elif spec.startswith(FOLDER_PREFIX):
        train, test = voc.read(Path(spec.removeprefix(FOLDER_PREFIX)).expanduser())
    else:
        raise LabError(
            f"data {spec!r} has no boxes{did_you_mean(spec, NAMES)}: give one of "
            f"{', '.join(NAMES)}"
        )
    size = image_size or DEFAULT_SIZE
    return DetectionData(train, test, voc.CLASSES, size).limited(limit)


def _draw(examples: Sequence[Example], count: int) -> list[Example]:
    """Choose some, in their order."""
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    order_N = torch.randperm(len(examples), generator=generator)
    return [examples[index] for index in sorted(order_N[:count].tolist())]


def _to_square(image_CHW: Tensor, size: int) -> Tensor:
    square_1CSS = interpolate(image_CHW[None].float(), (size, size), mode="bilinear")
    return square_1CSS[0].round().to(torch.uint8)
