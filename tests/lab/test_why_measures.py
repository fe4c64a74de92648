"""The figures of `docs/why-it-works.md` are what they are said to be.

- the change that a step obtains is that of an optimizer's step:
  `test_changes_are_those_of_a_step`
- errors are those of `trainact.diagnostics`: `test_errors_are_those_of_the_diagnostics`
- no change of the weights is nearer than the best, TrAct's limit: `test_the_best`
- a batch of different words gets exactly what it asks for: `test_words`
- an image's part is what autograd makes of its gradient alone: `test_parts_of_images`
- the page's formulas: `test_filter_factors`
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import trainact
from benchmarks import why
from benchmarks.why_measures import (
    Call,
    by_decile,
    changes,
    image_norms,
    observe,
    own_parts,
    proposal,
    share_records,
    shares,
)
from benchmarks.why_plots import as_picture, tiles
from benchmarks.why_tables import MEASURES
from tests.lab.conftest import make_folder
from tests.tolerances import ORACLE_RTOL, relative_error
from trainact.diagnostics import diagnose

ROUNDED = 1e-3  # figures have four digits
SMALL = 1e-9  # a damping of which the answer is off by about as much
LAM, LR = 0.1, 0.5
IMAGES = 5


def conv() -> tuple[nn.Module, Tensor]:
    """Many rows of few entries."""
    layer = nn.Conv2d(3, 4, 3, stride=2, padding=1)
    rest = (nn.Flatten(), nn.ReLU(), nn.Linear(36, 3))
    return nn.Sequential(layer, *rest), torch.randn(IMAGES, 3, 6, 6)


def linear() -> tuple[nn.Module, Tensor]:
    """Few rows of many entries."""
    model = nn.Sequential(nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3))
    return model, torch.randn(IMAGES, 12)


Problem = tuple[Any, Tensor, Tensor]


@pytest.fixture(params=[conv, linear], ids=["conv", "linear"])
def problem(request: pytest.FixtureRequest) -> Problem:
    torch.manual_seed(0)
    build: Callable[[], tuple[nn.Module, Tensor]] = request.param
    model, x = build()
    return model.double(), x.double(), torch.tensor([0, 1, 2, 1, 0])


def as_rows(z: Tensor) -> Tensor:
    return z.movedim(1, -1).reshape(-1, z.shape[1])


def step(model: Any, x: Tensor, labels: Tensor) -> Tensor:
    """How an optimizer's step on the first weight changes the pre-activations."""
    before = model[0](x).detach()
    optimizer = torch.optim.SGD([model[0].weight], lr=LR)
    cross_entropy(model(x), labels).backward()
    optimizer.step()
    return as_rows(model[0](x).detach() - before)


def test_changes_are_those_of_a_step(problem: Problem) -> None:
    model, x, labels = problem
    asked, moved = changes(observe(model, model[0], x, labels))
    plain = step(copy.deepcopy(model), x, labels)
    length = (plain * asked).sum() / plain.square().sum()
    assert relative_error(moved["plain"], length * plain) < ORACLE_RTOL
    trainact.TrAct(model[0], LAM)
    assert relative_error(-LR * moved["tract"], step(model, x, labels)) < ORACLE_RTOL


def test_errors_are_those_of_the_diagnostics(problem: Problem) -> None:
    model, x, labels = problem
    call = observe(model, model[0], x, labels)
    found = proposal(call, with_points=False)
    z = model[0](x)
    (grad_z,) = torch.autograd.grad(cross_entropy(model[1:](z), labels), z)
    figures = diagnose(trainact.TrAct(model[0], LAM), x, grad_z)
    assert found["error"]["tract"] == pytest.approx(figures.proposal_error, rel=ROUNDED)
    plain = pytest.approx(figures.plain_proposal_error, rel=ROUNDED)
    assert found["error"]["plain"] == plain
    assert (found["rows"], found["entries"]) == call.rows.shape
    assert found["slope"]["plain"] == pytest.approx(
        found["cosine"]["plain"] ** 2, ROUNDED
    )


def test_the_best(problem: Problem) -> None:
    model, x, labels = problem
    call = observe(model, model[0], x, labels)
    asked, moved = changes(call)
    best = moved["best"]
    # What is missing is at right angles to all that weights can do.
    assert (call.rows.mT @ (asked - best)).norm() < ORACLE_RTOL * asked.norm()
    assert relative_error(changes(call, SMALL)[1]["tract"], best) < 1e3 * SMALL
    for one in moved.values():
        assert (one - asked).norm() > (1 - ORACLE_RTOL) * (best - asked).norm()


def test_filter_factors(problem: Problem) -> None:
    """The page's formulas: what becomes of each direction that the layer has."""
    model, x, labels = problem
    call = observe(model, model[0], x, labels)
    asked, moved = changes(call)
    u, singular, _ = torch.linalg.svd(call.rows, full_matrices=False)
    mu = singular.square() / len(call.rows)

    def filtered(factors: Tensor) -> Tensor:
        return u @ (factors[:, None] * (u.mT @ asked))

    assert relative_error(moved["best"], filtered(mu**0)) < ORACLE_RTOL
    assert relative_error(moved["tract"], filtered(mu / (mu + LAM))) < ORACLE_RTOL
    plain = filtered(mu)
    length = (plain * asked).sum() / plain.square().sum()
    assert relative_error(moved["plain"], length * plain) < ORACLE_RTOL


def test_own_part(problem: Problem) -> None:
    """The part of a row's change that its own gradient makes, the others' being 0."""
    model, x, labels = problem
    call = observe(model, model[0], x, labels)
    for row in (0, len(call.rows) - 1):
        alone = torch.zeros_like(call.grad)
        alone[row] = call.grad[row]
        obtained = changes(Call(call.rows, alone, IMAGES))[1]["tract"][row]
        expected = own_parts(call)["tract"][row] * call.grad[row]
        assert relative_error(obtained, expected) < ORACLE_RTOL
    assert (
        relative_error(own_parts(call)["plain"], call.rows.norm(dim=1) ** 2)
        < ORACLE_RTOL
    )


def test_words() -> None:
    call = why.language(seed=0, epochs=1, once=True)
    assert set(call.rows.unique().tolist()) == {0.0, 1.0}
    assert (call.rows.sum(1) == 1).all()
    assert (call.rows.sum(0) <= 1).all()
    asked, moved = changes(call, lam=1e-14)
    for change in moved.values():
        assert relative_error(change, asked) < ORACLE_RTOL
    # In the text itself words come again, and one embedding cannot follow them all.
    asked, moved = changes(why.language(seed=0, epochs=1, once=False))
    assert relative_error(moved["best"], asked) > 0.1


def test_words_are_looked_up() -> None:
    """The step is that of an embedding, as a language model has it."""
    call = why.language(seed=0, epochs=0, once=False)
    table = nn.Embedding(call.rows.shape[1], call.grad.shape[1]).double()
    tokens = call.rows.argmax(1)
    table(tokens).backward(call.grad)
    change = table.weight.grad[tokens]
    plain = changes(call)[1]["plain"]
    scale = (plain * change).sum() / change.square().sum()
    assert relative_error(plain, scale * change) < ORACLE_RTOL


def test_parts_of_images(problem: Problem) -> None:
    model, x, labels = problem
    norms = image_norms(observe(model, model[0], x, labels))
    layers = {
        "plain": model[0],
        "tract": trainact.TrAct(copy.deepcopy(model[0]), LAM),
    }
    for way, layer in layers.items():
        z = layer(x)
        loss = cross_entropy(model[1:](z), labels)
        (grad_z,) = torch.autograd.grad(loss, z, retain_graph=True)
        for image in range(IMAGES):
            own = torch.zeros_like(z)
            own[image] = grad_z[image]
            (part,) = torch.autograd.grad(z, layer.weight, own, retain_graph=True)
            assert relative_error(norms[way][image], part.norm()) < ORACLE_RTOL
            size = grad_z[image].norm()
            assert relative_error(norms["gradient"][image], size) < ORACLE_RTOL
            alone = norms[f"{way} alone"][image] * size
            assert relative_error(alone, part.norm()) < ORACLE_RTOL


def test_shares_and_deciles() -> None:
    share = shares([{"a": torch.tensor([1.0, 3.0])}, {"a": torch.tensor([5.0, 5.0])}])
    assert share["a"].tolist() == [0.125, 0.375, 0.25, 0.25]
    values = torch.arange(20.0) / 190
    assert by_decile(values, -values)[0] == pytest.approx(37 / 190, rel=ROUNDED)
    assert sum(by_decile(values, values)) == pytest.approx(1, rel=ROUNDED)


def test_contrast_and_brightness() -> None:
    """A grey image has no contrast, and a white one is the brightest."""
    images = torch.zeros(10, 3, 2, 2, dtype=torch.uint8)
    for index in range(10):
        images[index, :, 0] = 20 * index
        images[index, :, 1] = 255 if index == 3 else 20 * (9 - index)
    images[7] = 255
    share = {"a": torch.eye(10)[7]}
    contrast, brightness = share_records(images, share)
    assert contrast["deciles"]["a"] == [1.0, *[0.0] * 9]
    assert brightness["deciles"]["a"] == [*[0.0] * 9, 1.0]


def test_directions() -> None:
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    values, vectors = why.directions(x, 3, 1, 1)
    gram = trainact.functional.patch_gram(x.double(), 3, 1, 1)
    assert values.tolist() == sorted(values.tolist(), reverse=True)
    assert relative_error(vectors @ values.diag() @ vectors.mT, gram) < ORACLE_RTOL


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(why, "SEEDS", (0,))
    monkeypatch.setattr(why, "SETTINGS", (("small-cnn", "data"),))
    monkeypatch.setattr(why, "FILTER_EPOCHS", 1)
    monkeypatch.setattr(why, "default_batch_size", lambda _: 8)
    folder = make_folder(tmp_path / "images", size=(32, 32))
    records = list(why.measure(folder, tmp_path / "missing"))
    assert {record["measure"] for record in records} == set(MEASURES)
    assert json.loads(json.dumps(records)) == records
    vanilla, _, tract = (r for r in records if r["measure"] == "filters")
    assert vanilla["final"] not in (vanilla["initial"], tract["final"])
    assert sum(tract["energy"]) == pytest.approx(1, ROUNDED)


def test_pictures_of_filters() -> None:
    filters = np.random.default_rng(0).normal(size=(10, 3, 5, 5))
    sheet = tiles(filters)
    assert sheet.shape == (2 * 6 - 1, 8 * 6 - 1, 3)
    assert (sheet[6:11, 6:11] == as_picture(filters[9])).all()
    assert 0 <= sheet.min() <= sheet.max() <= 1
