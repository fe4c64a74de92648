"""What `trainact shards` can be told; imports nothing heavy, so that help is quick."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import OmitSubcommandPrefixes, Positional, subcommand


@dataclass(frozen=True)
class MakeOptions:
    """Write a folder of images as WebDataset shards, with an index.

    The files go into the shards as they are, training images in a random order. Given
    again after an interruption, the same command goes on where it was.
    """

    folder: Positional[str]
    """imagefolder:PATH, a folder with a folder of images for each class, or with such
    ones in train and test (or val)."""

    out: Path
    """Folder for the shards and their index; a new one."""

    shard_mb: float = 100
    """Size of a shard in millions of bytes."""

    limit: int | None = None
    """Write this many training images only, every class keeping its share."""


@dataclass(frozen=True)
class IndexOptions:
    """Write the index of WebDataset shards that were made elsewhere.

    A sample is an image with a .cls file that holds its label, a number from 0. Names
    of shards say train, or val, validation or test.
    """

    shards: Positional[str]
    """A folder with .tar files, or their URLs, with braces for many:
    'https://HOST/{train-{00..99},val-{0..6}}.tar', in quotation marks."""

    out: Path | None = None
    """Folder for the index; by default that of the shards."""


@dataclass(frozen=True)
class ShardsOptions:
    """Make or index WebDataset shards, to train on with --data webdataset:PATH."""

    subcommands: ClassVar[dict[str, type]] = {
        "make": MakeOptions,
        "index": IndexOptions,
    }
    """By the name that is typed."""

    command: OmitSubcommandPrefixes[
        Annotated[MakeOptions, subcommand("make")]
        | Annotated[IndexOptions, subcommand("index")]
    ]
