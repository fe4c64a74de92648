"""Photographs of any size, read, decoded and augmented one by one.

Where images are too many or too large to be held in memory, a `Source` gives random
access to them: a folder (`FileSource`), WebDataset shards on a disk or in an object
store (`ShardSource`), a set of torchvision's, or a few made-up ones. `Photographs` are
two sources, for training and for testing, with the transforms that bring every image to
one size; worker processes read its samples.

What holds:

- An epoch has every training image once, in an order that is a function of the epoch's
  generator alone, so that all processes of a run agree on it and a run can be resumed
  anywhere in it.
- An augmented image is a function of the image and of its seed, whichever process makes
  it.
- A file or a shard that is missing or of another length than it should be stops the
  run, with one line that names it.
- A training image that cannot be decoded, or has more than 8 bits per channel, stops
  the run too. With ``corrupt="skip"`` the next image of its source that can be decoded
  takes its place, image and label; the first one comes after the last one. That is the
  same in every epoch and every process. Each process says so once for each image, on
  the logger of `trainact.lab`.
- A test image that cannot be decoded always stops the run.
- What stops a worker process reaches the main process as the same line, see `one_line`.
"""

from __future__ import annotations

from trainact.lab.data.photographs.failures import one_line
from trainact.lab.data.photographs.folder import FileSource
from trainact.lab.data.photographs.load import load_photographs
from trainact.lab.data.photographs.photographs import Corrupt, Photographs
from trainact.lab.data.photographs.shards import ShardSource
from trainact.lab.data.photographs.source import Source, UnreadableImageError
from trainact.lab.data.photographs.transforms import (
    AUGMENTATIONS,
    find_test_transform,
    find_train_transform,
    is_photographic,
)

__all__ = [
    "AUGMENTATIONS",
    "Corrupt",
    "FileSource",
    "Photographs",
    "ShardSource",
    "Source",
    "UnreadableImageError",
    "find_test_transform",
    "find_train_transform",
    "is_photographic",
    "load_photographs",
    "one_line",
]
