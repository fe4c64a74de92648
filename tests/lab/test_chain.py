"""A recipe that begins with the weights another one ends with."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.lab.conftest import CONFIG
from tests.lab.photographic import write_photographs
from trainact import cli
from trainact.lab import run as run_module
from trainact.lab.errors import LabError
from trainact.lab.experiment import plan
from trainact.lab.jobs import Job, carry_out, key_of
from trainact.lab.models import build_model
from trainact.lab.models.weights import load_weights
from trainact.lab.recipe import Arm, Recipe
from trainact.lab.recipes import RECIPES
from trainact.lab.records import Record
from trainact.lab.run_options import RunOptions
from trainact.lab.weights import hash_weights, keep_weights
from trainact.lab.workspace import Workspace

FIRST = Recipe(
    name="first",
    artefact="Figure 0",
    setting=replace(CONFIG.setting, epochs=1, batch_size=50, limit=100),
    arms=(Arm("vanilla"), Arm("tract", 0.1)),
    seeds=(0, 1),
    keep_weights=True,
)
# The rate is 0 in the only epoch: what it begins with is what it ends with.
SECOND = replace(
    FIRST,
    name="second",
    setting=replace(
        FIRST.setting, begins_with="first", schedule="cosine-epochs", warmup_epochs=1
    ),
)
Weights = dict[str, Tensor]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def jobs_of(recipe: Recipe, out: Path, **changes: Any) -> list[Job]:
    values = {"out": out, "logger": "none", "device": "cpu", **changes}
    options = RunOptions(recipe=recipe.name, checkpoint_seconds=0.0, **values)
    return plan([recipe], options)


def train(jobs: list[Job]) -> list[Record]:
    records = [carry_out(job, lambda _: None) for job in jobs]
    return [record for record in records if record is not None]


def ends_with(out: Path, record: Record) -> Weights:
    return torch.load(Workspace(out).weights(record.key))


def assert_same(found: Weights, expected: Weights, *but: str) -> None:
    assert found.keys() == expected.keys()
    for name in found.keys() - set(but):
        assert torch.equal(found[name], expected[name]), name


def perceptron() -> nn.Module:
    return build_model("mlp", (1, 8, 8), 10)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(LabError) as error:
        act()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_each_run_begins_where_its_own_arm_and_seed_ended(out: Path) -> None:
    before = train(jobs_of(FIRST, out))
    jobs = jobs_of(SECOND, out)
    assert len(before) == len(jobs) == 4
    after = train(jobs)
    for first, job, second in zip(before, jobs, after, strict=True):
        assert first.config.title == job.config.title
        path = Workspace(out).weights(first.key)
        assert job.weights == str(path)
        assert second.config.initial == hash_weights(path)
        assert_same(ends_with(out, second), ends_with(out, first))
        without = replace(second.config, initial=None)
        assert second.config.key("data") != without.key("data")
    assert len({record.config.initial for record in after}) == 4
    assert len({record.key for record in before + after}) == 8
    assert [len(record.layers) for record in after] == [0, 1, 0, 1]
    assert jobs_of(SECOND, out) == jobs, "they are found again"


def test_none_some_or_several(out: Path, tmp_path: Path) -> None:
    message = refusal(lambda: jobs_of(SECOND, out))
    assert message == (
        f"second begins with the weights that first ends with, and {out} has none for "
        "vanilla, seed 0: train that first, with the same --out, or give a file with "
        "--weights"
    )
    (smoked, *_) = jobs_of(SECOND, out, smoke=True)
    assert (smoked.weights, smoked.config.initial) == (None, None)
    train(jobs_of(FIRST, out)[:1])
    message = refusal(lambda: jobs_of(SECOND, out))
    assert f"{out} has none for tract λ=0.1, seed 0: train" in message
    train(jobs_of(FIRST, out, lr=0.2, method=("vanilla",)))
    message = refusal(lambda: jobs_of(SECOND, out, method=("vanilla",)))
    assert message == (
        f"second begins with weights of first, and {out} has 2 for vanilla, seed 0: "
        "choose with --weights"
    )
    keep_weights(perceptron(), chosen := tmp_path / "chosen.pt")
    jobs = jobs_of(SECOND, out, weights=chosen)
    assert {job.weights for job in jobs} == {str(chosen)}
    assert {job.config.initial for job in jobs} == {hash_weights(chosen)}


def test_a_smoke_leaves_nothing_that_is_worth_beginning_with(out: Path) -> None:
    train(jobs_of(FIRST, out, smoke=True, data="digits"))
    train(jobs_of(FIRST, out, smoke=True))
    message = refusal(lambda: jobs_of(SECOND, out))
    assert f"{out} has none for vanilla, seed 0: train that first" in message
    train(jobs_of(FIRST, out))
    jobs = jobs_of(SECOND, out)
    keys = [Path(str(job.weights)).stem for job in jobs]
    real = [r for r in Workspace(out).records.read()[0] if r.config.epochs == 1]
    assert keys == [record.key for record in real]


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch, out: Path) -> tuple[str, ...]:
    """The command that trains the two, the one that begins with weights named first."""
    for recipe in (SECOND, FIRST):
        monkeypatch.setitem(RECIPES, recipe.name, recipe)
    where = ("--device", "cpu", "--out", str(out), "--logger", "none")
    return ("sweep", "second", "first", *where)


def test_a_sweep_trains_first_what_others_begin_with(
    chain: tuple[str, ...], out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*chain, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.count("missing") == 4
    assert "Not yet second: second begins with the weights that first ends" in said
    assert cli.main(chain) == 0
    records = Workspace(out).records.read()[0]
    assert [record.recipe for record in records] == 4 * ["first"] + 4 * ["second"]
    assert all(r.config.initial for r in records if r.recipe == "second")
    capsys.readouterr()
    assert cli.main([*chain, "--dry-run"]) == 0
    assert capsys.readouterr().out.count("recorded  ") == 8


def test_a_run_that_left_no_weights_is_not_to_be_trained_in_vain(out: Path) -> None:
    (record, *_) = train(jobs_of(FIRST, out, method=("vanilla",)))
    Workspace(out).weights(record.key).unlink()
    message = refusal(lambda: jobs_of(SECOND, out))
    assert "vanilla, seed 0: it is recorded without; give a file with" in message


def test_what_diverged_is_nothing_to_begin_with(out: Path) -> None:
    records = train(jobs_of(FIRST, out, method=("vanilla",), lr=1e30))
    assert all(record.diverged for record in records)
    message = refusal(lambda: jobs_of(SECOND, out))
    assert "vanilla, seed 0: it diverged; leave it out, or give" in message
    train(jobs_of(FIRST, out, method=("vanilla",)))
    (job, *_) = jobs_of(SECOND, out, method=("vanilla",))
    assert job.weights is not None
    assert all(value.isfinite().all() for value in torch.load(job.weights).values())


def test_a_file_for_each_method_and_seed(tmp_path: Path, out: Path) -> None:
    runs = [(method, seed) for seed in (0, 1) for method in ("vanilla", "tract")]
    lams = {"vanilla": "", "tract": "0.1"}
    places = [tmp_path / f"{method}{lams[method]}-{seed}.pt" for method, seed in runs]
    for place in places:
        keep_weights(perceptron(), place)
    jobs = jobs_of(SECOND, out, weights=tmp_path / "{method}{lam}-{seed}.pt")
    assert [(job.config.method, job.config.seed) for job in jobs] == runs
    assert [job.weights for job in jobs] == list(map(str, places))
    assert len({job.config.initial for job in jobs}) == 4
    places[0].unlink()
    message = refusal(
        lambda: jobs_of(SECOND, out, weights=tmp_path / "{method}{lam}-0.pt")
    )
    assert message.startswith(f"cannot read the weights {places[0]} (No such file")


def test_other_images_and_other_classes(tmp_path: Path, out: Path) -> None:
    """From 10 classes in images of 32 pixels to 3 classes in images of 48."""
    folder = write_photographs(tmp_path / "photographs")
    source = build_model("deit3:tiny-patch8", (3, 32, 32), 10)
    keep_weights(source, path := tmp_path / "source.pt")
    setting = replace(
        SECOND.setting,
        model="deit3:tiny-patch8",
        data=f"imagefolder:{folder}",
        image_size=48,
        augment="imagenet",
        normalise="imagenet",
        batch_size=9,
        limit=9,
    )
    recipe = replace(SECOND, setting=setting, arms=(Arm("tract", 0.1),), seeds=(0,))
    (record,) = train(jobs_of(recipe, out, weights=path, workers=1))
    found = ends_with(out, record)
    torch.manual_seed(record.config.seed)
    expected = build_model("deit3:tiny-patch8", (3, 48, 48), 3)
    assert load_weights(expected, source.state_dict()) == ("head.weight", "head.bias")
    assert found["pos_embed"].shape == (1, 36, 192)
    assert_same(found, expected.state_dict())
    assert_same(found, source.state_dict(), "pos_embed", "head.weight", "head.bias")
    assert record.layers == ("patch_embed.proj",)


def test_weights_are_kept_before_the_run_is_recorded(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended between the two, the run ends again with the same weights."""
    (job,) = jobs_of(FIRST, out, method=("tract",))[:1]
    path = Workspace(out).weights(key_of(job))

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Workspace, "finish", stop)
        with pytest.raises(KeyboardInterrupt):
            train([job])
    assert Workspace(out).records.read()[0] == []
    kept = torch.load(path)
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "keep_weights", stop)
        with pytest.raises(KeyboardInterrupt):
            train([job])
    assert Workspace(out).records.read()[0] == [], "not without weights"
    (record,) = train([job])
    assert_same(ends_with(out, record), kept)


def test_a_full_disk_while_weights_are_kept(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = jobs_of(FIRST, out, method=("tract",))[:1]

    def keep(*arguments: Any) -> None:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        try:
            keep_weights(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    with monkeypatch.context() as patch:
        patch.setattr(run_module, "keep_weights", keep)
        message = refusal(lambda: train([job]))
    assert message.endswith(
        ".pt could not be written (File too large): make room and give the same "
        "command again"
    )
    assert list((out / "weights").iterdir()) == [], "no half of a file"
    assert Workspace(out).records.read()[0] == []
    assert len(list((out / "checkpoints").glob("*.ckpt"))) == 1
    (record,) = train([job])
    assert ends_with(out, record)


def write_half(path: Path) -> None:
    keep_weights(perceptron(), path)
    path.write_bytes(path.read_bytes()[:1000])


def write_other(path: Path) -> None:
    keep_weights(build_model("small-cnn", (1, 8, 8), 10), path)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (write_half, "weights.pt (it is damaged: "),
        (Path.touch, "weights.pt (it is damaged: "),
        (Path.mkdir, "weights.pt (Is a directory)"),
        (partial(torch.save, nn.ReLU()), "weights.pt (it holds more than tensors"),
        (partial(torch.save, [1]), "weights.pt holds no state dict"),
        (write_other, "of another network: fc1.weight is not in them"),
    ],
)
def test_weights_that_are_none(
    tmp_path: Path,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], object],
    says: str,
) -> None:
    path = tmp_path / "weights.pt"
    damage(path)
    monkeypatch.setitem(RECIPES, "second", SECOND)
    options = ("--weights", str(path), "--device", "cpu", "--out", str(out))
    assert cli.main(["run", "second", *options, "--logger", "none"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("trainact: ")
    assert says in message
    assert message.count("\n") == 1
    assert Workspace(out).records.read()[0] == []


@pytest.mark.parametrize("name", ["model", "state_dict"])
def test_weights_of_a_checkpoint(tmp_path: Path, out: Path, name: str) -> None:
    state = perceptron().state_dict()
    torch.save({name: state, "epoch": 3}, tmp_path / "checkpoint.pt")
    jobs = jobs_of(SECOND, out, weights=tmp_path / "checkpoint.pt")
    (record,) = train(jobs[:1])
    assert_same(ends_with(out, record), state)


def test_keep_weights_of_any_recipe(out: Path, tmp_path: Path) -> None:
    plain = replace(FIRST, keep_weights=False, seeds=(0,))
    (record, _) = train(jobs_of(plain, out))
    assert not (out / "weights").exists()
    other = tmp_path / "other"
    (again, _) = train(jobs_of(plain, other, keep_weights=True))
    assert again.key == record.key
    assert len(list((other / "weights").iterdir())) == 2
    assert ends_with(other, again).keys() == perceptron().state_dict().keys()
