"""Lightning's Trainer with TrActCallback: the weights are those of a loop by hand.

- test_fit_is_the_loop: every place where a model may be built, with and without
  deferral, accumulation and clipping, in both packages
- test_order_of_a_step: unscale, precondition, clip, step
- test_resume_is_exact, test_checkpoints_are_plain
- what is logged, what is left afterwards, what is refused
"""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path
from typing import Any

import lightning
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader

import trainact
import trainact.integrations.lightning
import trainact.integrations.pytorch_lightning
from tests.integrations import images
from tests.integrations.images import distance, weights
from tests.tolerances import ORACLE_RTOL, relative_error
from trainact.diagnostics import MAX_ENTRIES
from trainact.integrations.probe import Probe

NUM_IMAGES, BATCH, MICRO_BATCHES = 48, 16, 2
PACKAGES: dict[str, Any] = {
    "lightning": (lightning.pytorch, trainact.integrations.lightning),
    "pytorch_lightning": (pytorch_lightning, trainact.integrations.pytorch_lightning),
}
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
    pytest.mark.filterwarnings("ignore:.*MPS available but not used"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists"),
]
TrActCallback = trainact.integrations.lightning.TrActCallback


class Task:
    """What the modules of both packages do; where they build their model."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:  # noqa: ARG002
        x, y = batch
        return nn.functional.cross_entropy(self.model(x), y)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # As a user may: it fails if TrAct is not there yet.
        first, rest = trainact.split_parameters(self)
        groups = [{"params": first, "lr": 0.05}, {"params": rest}]
        return torch.optim.SGD(groups, lr=0.1, momentum=0.9)


def make_module(where: str = "init", package: Any = lightning.pytorch) -> Any:
    class Module(Task, package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            if where == "init":
                self.model = images.network()

    if where != "init":

        def build(self: Any, stage: str = "") -> None:  # noqa: ARG001
            if not hasattr(self, "model"):
                self.model = images.network().to(self.dtype)

        setattr(Module, where, build)
    return Module()


def make_trainer(package: Any = lightning.pytorch, **settings: Any) -> Any:
    quiet = {"logger": False, "enable_checkpointing": False} | settings
    return package.Trainer(
        accelerator="cpu",
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"precision": "64-true", "max_epochs": 2, **quiet},
    )


def loader(batch_size: int = BATCH, number: int = NUM_IMAGES) -> Any:
    return DataLoader(images.dataset(number), batch_size)


def by_hand(sizes: list[int], clip: float | None, epochs: int = 2) -> Tensor:
    """The same training in a plain loop, in micro-batches with statistics of their own.

    With one micro-batch this is what deferral must give for any number of them.
    """
    model = trainact.apply(images.network().double())
    first, rest = trainact.split_parameters(model)
    groups = [{"params": first, "lr": 0.05}, {"params": rest}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    for _ in range(epochs):
        for x, y in loader(sum(sizes)):
            optimizer.zero_grad()
            parts = zip(x.double().split(sizes), y.split(sizes), strict=True)
            for part_x, part_y in parts:
                loss = nn.functional.cross_entropy(model(part_x), part_y)
                (loss * len(part_y) / len(y)).backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    return weights(model)


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("where", ["init", "setup", "configure_model"])
def test_fit_is_the_loop(where: str, package: str) -> None:
    framework, integration = PACKAGES[package]
    module = make_module(where, framework)
    make_trainer(framework, callbacks=[integration.TrActCallback()]).fit(
        module, loader()
    )
    assert distance(module, by_hand([BATCH], None)) < ORACLE_RTOL
    assert where == "init" or where not in vars(module), "the method is the class's"


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("deferred", [False, True])
def test_accumulation(deferred: bool, clip: float | None) -> None:
    module = make_module()
    size = BATCH // MICRO_BATCHES
    make_trainer(
        callbacks=[TrActCallback(deferred=deferred)],
        accumulate_grad_batches=MICRO_BATCHES,
        gradient_clip_val=clip,
    ).fit(module, loader(size))
    ways = {True: [BATCH], False: [size] * MICRO_BATCHES}
    assert distance(module, by_hand(ways[deferred], clip)) < ORACLE_RTOL
    assert distance(module, by_hand(ways[not deferred], clip)) > 1e-4


def test_an_incomplete_window_at_the_end_of_an_epoch() -> None:
    """48 images in batches of 10, three to a step: the last step has 18 of them."""
    found, truth = make_module(), make_module()
    model = trainact.apply(truth.double(), layer="model.0")
    optimizer = truth.configure_optimizers()
    x, y = images.digits(NUM_IMAGES)
    for part in torch.arange(NUM_IMAGES).split(30):
        optimizer.zero_grad()
        sizes = [len(k) for k in part.split(10)]
        # Lightning always divides by the number of batches in a full window.
        scale = torch.cat([torch.ones(n).double() / (3 * n) for n in sizes])
        losses = nn.functional.cross_entropy(
            model.model(x[part].double()), y[part], reduction="none"
        )
        (losses * scale).sum().backward()
        optimizer.step()
    make_trainer(
        callbacks=[TrActCallback(deferred=True)],
        accumulate_grad_batches=3,
        max_epochs=1,
    ).fit(found, loader(10))
    assert distance(found, weights(truth)) < ORACLE_RTOL


def test_compiled() -> None:
    module = make_module()
    make_trainer(callbacks=[TrActCallback()]).fit(
        torch.compile(module, backend="aot_eager"), loader()
    )
    assert distance(module, by_hand([BATCH], None)) < ORACLE_RTOL


def test_manual_optimization() -> None:
    """There `trainact.deferred` takes what self.optimizers() gives: a wrapper."""

    class Manual(Task, lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.model = images.network()

        def training_step(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
            optimizer = self.optimizers()
            with trainact.deferred(self, optimizer) as step:
                for x, y in zip(*(t.chunk(MICRO_BATCHES) for t in batch), strict=True):
                    loss = nn.functional.cross_entropy(self.model(x), y)
                    self.manual_backward(loss / MICRO_BATCHES)
                if clip is not None:
                    step.precondition()
                    self.clip_gradients(optimizer, clip, "norm")
                optimizer.step()
                optimizer.zero_grad()

    for clip in (None, 0.05):
        module = Manual()
        make_trainer(callbacks=[TrActCallback()]).fit(module, loader())
        assert distance(module, by_hand([BATCH], clip)) < ORACLE_RTOL


def test_order_of_a_step() -> None:
    """Read in the source and recorded here: where Lightning calls what."""
    events: list[str] = []

    class Scaler(torch.amp.GradScaler):
        def unscale_(self, optimizer: Any) -> None:
            events.append("unscale")
            super().unscale_(optimizer)

    class Spy(TrActCallback):
        def on_before_optimizer_step(self, *args: Any) -> None:
            before = args[1].model[0].weight.grad.clone()
            super().on_before_optimizer_step(*args)
            change = relative_error(args[1].model[0].weight.grad, before)
            events.append("precondition" if change > 0.1 else "nothing")

    module = make_module()
    clip = module.configure_gradient_clipping
    seen: list[Tensor] = []

    def configure_gradient_clipping(*args: Any, **kwargs: Any) -> None:
        events.append("clip")
        seen.append(module.model[0].weight.grad.clone())
        clip(*args, **kwargs)

    module.configure_gradient_clipping = configure_gradient_clipping
    make_trainer(
        callbacks=[Spy(deferred=True)],
        precision=None,
        plugins=[MixedPrecision("16-mixed", "cpu", Scaler("cpu", init_scale=8.0))],
        accumulate_grad_batches=MICRO_BATCHES,
        gradient_clip_val=1e-3,
        max_steps=1,
    ).fit(module, loader(BATCH // MICRO_BATCHES))
    assert events == ["unscale", "precondition", "clip"]
    whole = trainact.apply(images.network())
    x, y = (t[:BATCH] for t in images.digits(NUM_IMAGES))
    with torch.autocast("cpu", torch.float16):
        loss = nn.functional.cross_entropy(whole(x), y)
    loss.backward()
    half = torch.finfo(torch.float16).eps
    assert relative_error(seen[0], whole[0].weight.grad) < 4 * half


@pytest.mark.parametrize("deferred", [False, True])
def test_resume_is_exact(tmp_path: Path, deferred: bool) -> None:
    def fit(epochs: int, ckpt: Path | None) -> tuple[Any, Any]:
        module = make_module()
        trainer = make_trainer(
            callbacks=[TrActCallback(deferred=deferred)],
            accumulate_grad_batches=MICRO_BATCHES,
            max_epochs=epochs,
            precision=32,  # Lightning itself rounds to that when it restores
        )
        trainer.fit(module, loader(), ckpt_path=ckpt)
        return module, trainer

    whole, _ = fit(4, None)
    _, half = fit(2, None)
    half.save_checkpoint(tmp_path / "half.ckpt")
    resumed, _ = fit(4, tmp_path / "half.ckpt")
    assert torch.equal(weights(resumed), weights(whole))


def test_checkpoints_are_plain(tmp_path: Path) -> None:
    class Plain(Task, lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = images.network()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    trained, plain = Plain(), Plain()
    with_tract = make_trainer(callbacks=[TrActCallback()])
    with_tract.fit(trained, loader())
    with_tract.save_checkpoint(tmp_path / "tract.ckpt")
    without = make_trainer(max_epochs=3)
    without.fit(plain, loader(), ckpt_path=tmp_path / "tract.ckpt")
    assert not trainact.tract_layers(plain)
    without.save_checkpoint(tmp_path / "plain.ckpt")
    make_trainer(callbacks=[TrActCallback()], max_epochs=4).fit(
        Plain(), loader(), ckpt_path=tmp_path / "plain.ckpt"
    )
    files = [
        torch.load(tmp_path / name, weights_only=False)
        for name in ("tract.ckpt", "plain.ckpt")
    ]
    assert files[0].keys() == files[1].keys()
    assert files[0]["state_dict"].keys() == files[1]["state_dict"].keys()
    assert b"trainact" not in (tmp_path / "tract.ckpt").read_bytes()


def test_diagnostics_are_logged(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    callback = TrActCallback(log_every_n_steps=2)
    trainer = make_trainer(callbacks=[callback], logger=logger, precision=32)
    module = make_module()
    trainer.fit(module, loader())
    with Path(logger.log_dir, "metrics.csv").open() as file:
        logged = list(csv.DictReader(file))
    assert [row["step"] for row in logged] == ["0", "2", "4"]
    layer = trainact.apply(images.network())
    seen: list[Tensor] = []
    x, y = (t[:BATCH] for t in images.digits(NUM_IMAGES))
    z = layer[0](x)
    z.register_hook(seen.append)
    nn.functional.cross_entropy(layer[1:](z), y).backward()
    truth = trainact.diagnostics.diagnose(layer[0], x, seen[0]).scalars()
    found = {k: float(v) for k, v in logged[0].items() if k != "step"}
    assert found == {
        f"trainact/model.0/{k}": pytest.approx(v) for k, v in truth.items()
    }
    assert not module.model[0]._forward_hooks


def test_diagnostics_that_cannot_be_logged() -> None:
    module = make_module()
    module.model = nn.Sequential(nn.Flatten(), nn.Linear(MAX_ENTRIES + 1, 10))
    callback = TrActCallback(log_every_n_steps=1)
    with pytest.raises(ValueError, match="leave out log_every_n_steps"):
        make_trainer(callbacks=[callback]).fit(module, loader())


def test_a_step_with_an_infinite_input_logs_nothing() -> None:
    model = trainact.apply(images.network())
    probe = Probe()
    for bad in (True, False):
        probe.open(model)
        x, _ = images.digits(BATCH)
        model(torch.full_like(x, torch.inf) if bad else x).sum().backward()
        assert bool(probe.read()) != bad
        probe.close()
        assert not probe.read()


class OutOfOrder(nn.Module):
    """Its first layer is registered last, and another could take the image too."""

    def __init__(self) -> None:
        super().__init__()
        first, *_, self.a = images.network()
        self.b = first
        self.spare = nn.Conv2d(1, 2, 3).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(self.b(x).tanh().flatten(1))


@pytest.mark.parametrize(
    "option",
    [{"layer": "model.b"}, {"example_input": torch.zeros(1, 1, 8, 8)}],
    ids=lambda option: next(iter(option)),
)
def test_a_layer_that_cannot_be_told(option: dict[str, Any]) -> None:
    module = make_module()
    module.model = OutOfOrder()
    with pytest.raises(ValueError, match="cannot tell the first layer"):
        make_trainer(callbacks=[TrActCallback()]).fit(module, loader())
    make_trainer(callbacks=[TrActCallback(**option)]).fit(module, loader())
    assert list(trainact.tract_layers(module)) == ["model.b"]
    twin = [module.model.b, nn.Tanh(), nn.Flatten(), module.model.a]
    assert distance(nn.Sequential(*twin), by_hand([BATCH], None)) < ORACLE_RTOL


def test_nothing_is_left() -> None:
    module = make_module()
    types = [type(m) for m in make_module().modules()]
    callback = TrActCallback(deferred=True, remove_after_fit=True)
    make_trainer(callbacks=[callback]).fit(module, loader())
    assert [type(m).__name__ for m in module.modules()] == [t.__name__ for t in types]


def test_only_fitting_applies_it() -> None:
    module = make_module()
    type(module).validation_step = lambda self, batch, index: None  # noqa: ARG005
    trainer = make_trainer(callbacks=[TrActCallback()])
    trainer.validate(module, loader(), verbose=False)
    assert not trainact.tract_layers(module)
    trainer.fit(module, loader(), loader())
    assert list(trainact.tract_layers(module)) == ["model.0"]


def test_a_setup_of_the_instance_is_called_and_stays() -> None:
    module, stages = make_module(), []

    def own(stage: str) -> None:
        stages.append(stage)

    module.setup = own
    make_trainer(callbacks=[TrActCallback()]).fit(module, loader())
    assert stages == ["fit"]
    assert module.setup is own
    assert distance(module.model, by_hand([BATCH], None)) < ORACLE_RTOL


def test_torch_without_distributed(monkeypatch: pytest.MonkeyPatch) -> None:
    callback, module = TrActCallback(), make_module()
    callback.setup(None, module, "fit")
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    module.setup("fit")
    assert list(trainact.tract_layers(module)) == ["model.0"]


def test_an_exception_ends_the_deferral() -> None:
    class Failing(TrActCallback):
        def on_train_batch_end(self, *_: Any) -> None:
            msg = "stopped"
            raise KeyError(msg)

    module = make_module()
    with pytest.raises(KeyError, match="stopped"):
        make_trainer(callbacks=[Failing(deferred=True)]).fit(module, loader())
    assert not module.model[0].tract.is_deferred
    assert isinstance(module.model[0], trainact.TrActConv2d)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="log_every_n_steps=0 is not a positive"):
        TrActCallback(log_every_n_steps=0)
    with pytest.raises(ValueError, match="lam=-1 is not a positive"):
        TrActCallback(lam=-1)
    manual = make_module()
    manual.automatic_optimization = False
    with pytest.raises(ValueError, match=r"use trainact\.deferred in its training"):
        make_trainer(callbacks=[TrActCallback(deferred=True)]).fit(manual, loader())
    module = make_module()
    trainact.apply(module, 0.2, "model.0")
    with pytest.raises(ValueError, match=r"with lam=0\.2, and TrActCallback has lam"):
        make_trainer(callbacks=[TrActCallback()]).fit(module, loader())
    make_trainer(callbacks=[TrActCallback(lam=0.2)]).fit(module, loader())
    with pytest.raises(ValueError, match="relative=True: give both the same"):
        make_trainer(callbacks=[TrActCallback(0.2, relative=True)]).fit(
            module, loader()
        )
    fresh = make_module()
    make_trainer(callbacks=[TrActCallback(relative=True)]).fit(fresh, loader())
    assert fresh.model[0].relative
    with pytest.raises(ValueError, match=r"the model has no layer 'model\.nil'"):
        make_trainer(callbacks=[TrActCallback(layer="model.nil")]).fit(
            make_module(), loader()
        )


@pytest.mark.parametrize("package", PACKAGES)
def test_the_other_package_is_refused(package: str) -> None:
    others = [name for name in PACKAGES if name != package]
    module = make_module("init", PACKAGES[package][0])
    callback = PACKAGES[others[0]][1].TrActCallback()
    with pytest.raises(ValueError, match="import it from trainact"):
        make_trainer(PACKAGES[package][0], callbacks=[callback]).fit(module, loader())


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"trainact.integrations.{package}"
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.pytorch", None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match=f"pip install {package.replace('_', '-')}"):
        importlib.import_module(name)
