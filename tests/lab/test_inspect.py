"""`trainact inspect` says what an explicit computation says, or what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.cases import oracle_rows
from trainact import cli
from trainact.lab.data import load_data
from trainact.lab.data.normalise import Normalise
from trainact.lab.models import build_model
from trainact.lab.survey import Survey, survey


def inspect(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.main(["inspect", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)["layers"]


def test_spectrum_of_real_images(capsys: pytest.CaptureFixture[str]) -> None:
    found = inspect(capsys, "small-cnn", "--data", "digits", "--images", "100")
    data = load_data("digits", Path(), limit=100)
    model = build_model("small-cnn", data.image_shape, data.num_classes)
    images = Normalise(*data.statistics)(data.train_images)
    (rows_NP,) = oracle_rows(model.conv1, images)
    truth = np.linalg.eigvalsh(rows_NP.T @ rows_NP / len(rows_NP))
    layer = found["conv1"]
    np.testing.assert_allclose(layer["eigenvalues"], truth, rtol=1e-4, atol=1e-6)
    assert layer["images"] == 100
    assert layer["rows_per_image"] == len(rows_NP) / 100
    assert layer["mean_square"] == pytest.approx(np.mean(rows_NP**2), rel=1e-5)
    of_lam = layer["lam"]["0.1"]
    assert of_lam["effective_entries"] == pytest.approx(np.sum(truth / (truth + 0.1)))
    assert of_lam["condition_bound"] == pytest.approx(truth.max() / 0.1 + 1)


def test_suggested_lam_follows_the_scale(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("mlp", "--data", "digits", "--images", "64")
    standardised = inspect(capsys, *arguments)["fc1"]
    as_bytes = inspect(capsys, *arguments, "--pixels", "0-255")["fc1"]
    assert standardised["suggested_lam"] == 0.1
    ratio = as_bytes["mean_square"] / standardised["mean_square"]
    assert as_bytes["suggested_lam"] == pytest.approx(0.1 * ratio, rel=0.5)


def test_text_names_layer_and_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["inspect", "timm:vit_tiny_patch16_224"]) == 0
    out = capsys.readouterr().out
    assert "patch_embed.proj  Conv2d(3, 192, kernel_size=(16, 16)" in out
    assert "entries of a row (n)   768" in out
    assert "rows for each image    196" in out
    assert "Give --data" in out


def test_memory_is_of_the_form_that_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    primal = inspect(capsys, "timm:vit_tiny_patch16_224")["patch_embed.proj"]
    dual = inspect(capsys, "timm:vit_tiny_patch16_224", "--batch-size", "1")
    assert primal["form"] == "primal"
    assert primal["kept_bytes"] == 4 * 768**2
    assert dual["patch_embed.proj"]["form"] == "dual"
    assert dual["patch_embed.proj"]["kept_bytes"] == 196 * (4 * 768 + 8 * 196)


class TwoStems(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Conv2d(3, 4, 2, stride=2)
        self.coarse = nn.Conv2d(3, 4, 4, stride=4, groups=1)
        self.never = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small = nn.functional.avg_pool2d(x, 2)
        features = self.fine(small).mean((2, 3)) + self.coarse(x).mean((2, 3))
        raise AssertionError(f"the rest of the model need not run: {features}")


def test_several_stems_and_nothing_after_them() -> None:
    model = TwoStems()
    layers = {"fine": model.fine, "coarse": model.coarse}
    x = torch.randn(5, 3, 8, 8)
    seen = survey(model, layers, x.split(2))
    assert {name: s.num_rows for name, s in seen.items()} == {"fine": 20, "coarse": 20}
    (rows_NP,) = oracle_rows(model.coarse, x)
    np.testing.assert_allclose(
        seen["coarse"].products[0], rows_NP.T @ rows_NP, rtol=1e-4, atol=1e-4
    )
    assert not model.coarse._forward_pre_hooks


@pytest.mark.parametrize(
    ("mean_square", "suggested"), [(0.87, 0.1), (1.4, 0.1), (16200, 2000), (3e-3, 2e-4)]
)
def test_suggested_lam_is_a_round_number(mean_square: float, suggested: float) -> None:
    seen = Survey(num_images=1, num_rows=2, num_entries=5, squares=10 * mean_square)
    assert seen.suggested_lam == suggested


def test_a_model_of_ones_own(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "model_of_mine.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))\n"
        "def nothing():\n"
        "    return None\n"
    )
    monkeypatch.chdir(tmp_path)
    found = inspect(capsys, "model_of_mine:build", "--image-size", "32")
    assert found["1"]["entries"] == 3072
    assert cli.main(["inspect", "model_of_mine:nothing"]) == 2
    assert "returned NoneType where Module is needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["resnet19"], "did you mean"),
        (["nowhere_at_all:build"], "there is no module 'nowhere_at_all'"),
        (["small-cnn", "--images", "0"], "--images 0: give a finite number above 0"),
        (["small-cnn", "--lam", "0"], "--lam 0.0: give a finite number above 0"),
        (["small-cnn", "--layer", "conv9"], "no layer 'conv9'"),
        (["mlp", "--data", "digitz"], "did you mean"),
        (["torch.nn:Linear"], "called without arguments"),
    ],
)
def test_one_line_says_what_is_wrong(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["inspect", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
