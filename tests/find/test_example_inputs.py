"""Inputs that are made from what a model says that it takes, where none was given."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import trainact


class TwoImages(nn.Module):
    """Both streams are required, so an example can be made for each."""

    def __init__(self, channels: int):
        super().__init__()
        self.second = nn.Conv2d(channels, 8, 3)
        self.first = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(16, 2)

    def forward(self, frame, other):
        maps = self.first(frame), self.second(other)
        return self.head(torch.cat(maps, 1).mean((2, 3)))


class Mixer(nn.Module):
    """A linear patch embedding, with the side of the image known to the module."""

    def __init__(self, image_size: int = 40):
        super().__init__()
        self.head = nn.Linear(32, 10)
        self.image_size = image_size
        self.positions = nn.Parameter(torch.zeros((image_size // 4) ** 2, 32))
        self.embed = nn.Linear(48, 32)

    def forward(self, x):
        patches = F.unfold(x, 4, stride=4).mT
        return self.head((self.embed(patches) + self.positions).mean(1))


class SharedStem(nn.Module):
    """A Siamese network, registered with its head first."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 2)
        self.stem = nn.Conv2d(3, 8, 3)

    def forward(self, left, right):
        return self.head((self.stem(left) - self.stem(right)).mean((2, 3)))


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.time = nn.Linear(1, 8)
        self.stem = nn.Conv2d(4, 8, 3, padding=1)

    def forward(self, x, timesteps):
        return self.stem(x) + self.time(timesteps[:, None].float())[..., None, None]


class Reversed(nn.Module):
    """Registered with its head first; takes one size alone, as its positions tell."""

    def __init__(self, stem: nn.Module, size: tuple[int, ...], **named):
        super().__init__()
        self.head = nn.Linear(8, 2)
        self.positions = nn.Parameter(torch.zeros(8, *size))
        self.stem = stem
        for name, value in named.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.head((self.stem(x) + self.positions).flatten(2).mean(2))


# As configurations of Transformers have it.
OBLONG = {"height": 20, "width": 44}


class Triplet(nn.Module):
    """More inputs than stems: two of them share one."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 2)
        self.own, self.shared = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)

    def forward(self, anchor, positive, negative):
        own = self.own(anchor)
        difference = self.shared(positive) - self.shared(negative)
        return self.head((own * difference).mean((2, 3)))


class Ids(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(8, 2)
        self.words = nn.Embedding(512, 8)

    def forward(self, input_ids):
        return self.head(self.words(input_ids).mean(1))


@pytest.mark.parametrize(
    ("model", "names"),
    [
        (Mixer(), ["embed"]),
        (SharedStem(), ["stem"]),
        (Denoiser(), ["stem"]),
        (TwoImages(3), ["first", "second"]),
        (Triplet(), ["own", "shared"]),
        (Reversed(nn.Conv2d(1, 8, 1), (20, 44), image_size=OBLONG), ["stem"]),
        (Reversed(nn.Conv1d(2, 8, 5), (192,)), ["stem"]),
        (Reversed(nn.Conv3d(3, 8, 1), (8, 20, 20), image_size=20), ["stem"]),
        (Reversed(nn.Conv3d(3, 8, 1), (6, 20, 12), input_size=(6, 20, 12)), ["stem"]),
        (Reversed(nn.Conv3d(1, 8, 1), (28, 28, 28)), ["stem"]),
    ],
)
def test_an_example_decides_where_structure_leaves_a_doubt(model, names) -> None:
    assert list(trainact.first_layers(model)) == names


def test_a_lookup_is_refused_with_the_reason() -> None:
    with pytest.raises(
        ValueError, match=r"'words' is a Embedding.*a table is looked up"
    ):
        trainact.first_layers(Ids())


class Optional(nn.Module):
    """An input that it can do without has a stem of its own."""

    def __init__(self):
        super().__init__()
        self.stems = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv2d(1, 8, 3)])

    def forward(self, image, depth=None):
        z = self.stems[0](image)
        return z if depth is None else z + self.stems[1](depth)


def test_a_stem_that_the_example_leaves_out_is_not_overlooked() -> None:
    with pytest.raises(ValueError, match=r"besides 'stems\.0' .*'stems\.1' could take"):
        trainact.first_layers(Optional())
    both = (torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8))
    assert list(trainact.first_layers(Optional(), both)) == ["stems.0", "stems.1"]


class TwoScales(nn.Module):
    """Which of its layers see an image cannot be told from the structure."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 4, 4), nn.Conv2d(3, 4, 8, 8)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head((self.fine(x).mean((2, 3)) + self.coarse(x).mean((2, 3))) / 2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_examples_have_the_precision_of_the_model(dtype: torch.dtype) -> None:
    model = TwoScales().to(dtype)
    assert list(trainact.first_layers(model)) == ["fine", "coarse"]
