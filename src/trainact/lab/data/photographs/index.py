"""The index beside WebDataset shards: where each image is, and its label.

``index.json`` holds the classes and, for each shard of the training and test images,
its name, its length and three lists with an entry for each image: offset and size of
the encoded image, both in bytes, and label. A name is that of a file beside the index,
or a whole URL.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainact.lab.errors import LabError, describe_os_error, first_line

INDEX_NAME = "index.json"
_FORMAT = "trainact shards 1"


@dataclass(frozen=True, eq=False)
class Shard:
    """One tar file.

    Attributes:
        name: of a file beside the index, or a URL.
        num_bytes: length of the file.
        offsets: where each encoded image begins, int64 [N].
        sizes: bytes of each, int64 [N].
        labels: int64 [N].
    """

    name: str
    num_bytes: int
    offsets: NDArray[np.int64]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """Write as plain values.

        Returns:
            A dictionary.
        """
        return {
            "name": self.name,
            "bytes": self.num_bytes,
            "offsets": self.offsets.tolist(),
            "sizes": self.sizes.tolist(),
            "labels": self.labels.tolist(),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Shard:
        """Read what `to_json` wrote.

        Args:
            values: the dictionary.

        Returns:
            The shard.

        Raises:
            ValueError: if there is not one of each for every image, or an image does
                not lie in the shard.
        """
        name, num_bytes = str(values["name"]), int(values["bytes"])
        lists = [np.asarray(values[key]) for key in ("offsets", "sizes", "labels")]
        if len({part.shape for part in lists}) != 1 or lists[0].ndim != 1:
            raise ValueError(f"the lists of {name} differ in length")
        if lists[0].size and {part.dtype.kind for part in lists} != {"i"}:
            raise ValueError(f"the lists of {name} hold other than whole numbers")
        offsets, sizes, labels = (part.astype(np.int64) for part in lists)
        if ((offsets < 0) | (sizes < 0) | (offsets > num_bytes - sizes)).any():
            raise ValueError(
                f"an image of {name} does not lie in its {num_bytes} bytes"
            )
        return cls(name, num_bytes, offsets, sizes, labels)


@dataclass(frozen=True, eq=False)
class Index:
    """All shards of a data set.

    Attributes:
        classes: names; a label is an index into them.
        train: shards of training images.
        test: shards of test images.
    """

    classes: tuple[str, ...]
    train: tuple[Shard, ...]
    test: tuple[Shard, ...]

    def write(self, folder: Path) -> None:
        """Write the index whole or not at all.

        Args:
            folder: where to.

        Raises:
            LabError: if it cannot be written.
        """
        values = {
            "format": _FORMAT,
            "classes": self.classes,
            "train": [shard.to_json() for shard in self.train],
            "test": [shard.to_json() for shard in self.test],
        }
        part = folder / f".{INDEX_NAME}.part"
        try:
            part.write_text(json.dumps(values, separators=(",", ":")), encoding="utf-8")
            part.replace(folder / INDEX_NAME)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise LabError(
                f"cannot write {folder / INDEX_NAME} ({describe_os_error(error)}): "
                "make room or give another folder"
            ) from error

    @classmethod
    def parse(cls, text: bytes, where: str) -> Index:
        """Read what `write` wrote.

        Args:
            text: of the file.
            where: it is, for messages.

        Returns:
            The index.

        Raises:
            LabError: if the text is something else.
        """
        try:
            values = _of_this_format(json.loads(text))
            classes = tuple(map(str, values["classes"]))
            splits = [
                tuple(map(Shard.from_json, values[split]))
                for split in ("train", "test")
            ]
        except (
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            OverflowError,
        ) as error:
            raise LabError(
                f"{where} is not an index of shards ({first_line(error)}): remove it "
                "and write it with `trainact shards index`"
            ) from error
        return cls(classes, *splits)


def _of_this_format(values: dict[str, Any]) -> dict[str, Any]:
    if values["format"] != _FORMAT:
        raise ValueError(f"its format is {values['format']!r} and not {_FORMAT!r}")
    return values
