"""The command in this process, generated image folders, made-up records."""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.lab.photographic import make_shards, write_photographs
from trainact import cli
from trainact.lab.config import RunConfig
from trainact.lab.records import Record

CONFIG = RunConfig(
    data="digits",
    model="mlp",
    method="vanilla",
    lam=None,
    optimizer="sgd",
    lr=0.1,
    epochs=3,
    batch_size=64,
    schedule="cosine",
    seed=0,
    limit=None,
    image_size=None,
    layer=None,
    device="cpu",
    precision="32",
)
TINY = ("--model", "mlp", "--epochs", "2", "--limit", "100", "--device", "cpu")


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture
def compare(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Cli:
    """`trainact compare` through its entry point, with --out in a fresh folder."""

    def run(*arguments: str, out: Path = tmp_path / "out") -> Outcome:
        try:
            code = cli.main(["compare", *arguments, "--out", str(out)])
        except SystemExit as error:  # how tyro ends on an unknown option
            code = int(error.code or 0)
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return run


def make_images(
    folder: Path, count: int, size: tuple[int, int] = (8, 8), mode: str = "RGB"
) -> Path:
    """Write noise images whose mean depends on the folder's name."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(sum(folder.name.encode()))
    level = generator.integers(40, 200)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    for index in range(count):
        noise = generator.integers(-40, 40, shape)
        values = np.clip(level + noise, 0, 255).astype(np.uint8)
        Image.fromarray(values).save(folder / f"{index:03}.png")
    return folder


def make_folder(
    root: Path, count: int = 12, size: tuple[int, int] = (8, 8), mode: str = "RGB"
) -> Path:
    """A train/test folder of two classes."""
    for split, number in (("train", count), ("test", 4)):
        for name in ("cat", "dog"):
            make_images(root / split / name, number, size, mode)
    return root


def make_record(config: RunConfig = CONFIG, **changes: Any) -> Record:
    """A record with made-up outcomes."""
    values: dict[str, Any] = {
        "key": config.key("hash"),
        "config": config,
        "accuracy": (0.5, 0.6, 0.7),
        "loss": (1.0, 0.5, None),
        "seconds": (0.3, 0.1, 0.2),
        "diverged": False,
        "layers": (),
        "num_parameters": 10,
        "data": {
            "train": 8,
            "test": 4,
            "shape": [1, 8, 8],
            "classes": ["0", "1"],
            "hash": "hash",
        },
        "device": "abacus",
        "threads": 2,
        "versions": {"trainact": "1", "torch": "2"},
        "commit": None,
        "started": "2026-01-01T00:00:00+00:00",
        "command": "trainact compare",
    }
    return Record(**{**values, **changes})


@pytest.fixture(scope="session")
def real_photographs(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """Eight photographs of two classes of ImageNet, or None where there are none."""
    archive = Path(__file__).parents[3] / "shared/data/tiny-imagenet-50.tar.xz"
    if not archive.exists():
        return None
    folder = tmp_path_factory.mktemp("photographs")
    kept: Counter[tuple[str, str]] = Counter()
    classes: list[str] = []
    with tarfile.open(archive) as tar:
        for member in filter(tarfile.TarInfo.isfile, tar):
            split, name, _ = Path(member.name).parts
            if name not in classes and len(classes) < 2:
                classes.append(name)
            if name in classes and kept[split, name] < 2:
                tar.extract(member, folder, filter="data")
                kept[split, name] += 1
            if kept.total() == 8:
                break
    return f"imagefolder:{folder}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of made-up photographs."""
    return write_photographs(tmp_path_factory.mktemp("photographs"))


@pytest.fixture(scope="module")
def made(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of them, not to be changed."""
    out = tmp_path_factory.mktemp("shards") / "made"
    assert make_shards(root, out) == 0
    return out


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """Shards that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "copy"))
