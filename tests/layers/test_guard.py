"""A weight that is trained without TrAct is told once; other uses of it are silent.

Warnings are errors here (pyproject.toml), so a way that should be silent only has to
run.
"""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import trainact
from trainact.layers.guard import Guard

X = torch.randn(20, 6)


@pytest.fixture(autouse=True)
def nothing_compiled(monkeypatch) -> None:
    monkeypatch.setattr(Guard, "is_any_compiled", False)
    torch._dynamo.reset()


@pytest.fixture
def model() -> nn.Sequential:
    return trainact.apply(nn.Sequential(nn.Linear(6, 3), nn.Tanh()))


def compiled(model):
    return torch.compile(model, backend="aot_eager", fullgraph=True)


def call(model):
    return model(X).sum()


def use_weight(model):
    return F.linear(X, model[0].weight).sum()


def call_trace(model):
    traced = torch.fx.symbolic_trace(model.eval())
    model.train()
    return traced.train()(X).sum()


def as_it_is(model):
    return model


def after_training(model):
    model.train()(X).sum().backward()
    return model.eval()


def with_assigned_weights(model):
    model.load_state_dict(copy.deepcopy(model.state_dict()), assign=True)
    return model.requires_grad_(True)


def unfrozen(model):
    trainact.apply(trainact.remove(model.requires_grad_(False)))
    return model.requires_grad_(True)


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize(
    "change",
    [
        *(as_it_is, after_training, with_assigned_weights, unfrozen),
        *(copy.deepcopy, pickled),
    ],
)
@pytest.mark.parametrize("how", [as_it_is, compiled])
def test_training_in_eval_mode_is_told_once(model, change, how) -> None:
    model = change(model.eval())
    if change is with_assigned_weights or change is unfrozen:
        call(model)  # finds parameters that are new, or frozen no longer
    run = how(model)
    with pytest.warns(UserWarning, match=r"TrActLinear.* is in eval mode.*\.train\(\)"):
        call(run).backward()
    call(run).backward()


@pytest.mark.parametrize("change", [as_it_is, copy.deepcopy, pickled])
@pytest.mark.parametrize("use", [use_weight, call_trace])
def test_a_weight_used_without_its_layer_is_told_once(model, change, use) -> None:
    model = change(model)
    with pytest.warns(UserWarning, match=r"trainact: .* has not been called in train"):
        use(model).backward()
    use(model).backward()


def look_at_the_input(model):
    leaf = X.clone().requires_grad_()
    return torch.autograd.grad(model.eval()(leaf).sum(), leaf)


def evaluate(model):
    with torch.no_grad():
        call(model.eval())
    call(model)
    call(model.train()).backward()


def train_a_shallow_copy(model):
    call(nn.Sequential(copy.copy(model[0]))).backward()


def train_a_replica(model):
    # What DataParallel calls in each thread: the gradient reaches the original.
    replica = model[0]._replicate_for_data_parallel()
    replica.weight, replica.bias = (p * 1 for p in model[0].parameters())
    replica(X).sum().backward()


def transform(model):
    grad(lambda p: functional_call(model, p, X).sum())(dict(model.named_parameters()))


@pytest.mark.parametrize(
    "use",
    [
        look_at_the_input,
        evaluate,
        train_a_shallow_copy,
        train_a_replica,
        transform,
        lambda m: (call(m) + use_weight(m)).backward(),
        lambda m: (call(m) + m[0].weight.square().sum()).backward(),
        lambda m: call(compiled(m)).backward(),
        lambda m: checkpoint(m, X, use_reentrant=False).sum().backward(),
        lambda m: functional_call(m, dict(m.named_parameters()), X).sum().backward(),
        lambda m: call(trainact.remove(m).eval()).backward(),
        lambda m: call(m.eval().requires_grad_(False).append(nn.Linear(3, 2))),
    ],
    ids=[
        *("saliency", "evaluation", "shallow copy", "replica", "transform", "tied"),
        *("penalty", "compiled", "checkpoint", "functional call", "removed", "frozen"),
    ],
)
def test_other_uses_are_silent(model, use) -> None:
    use(model)


def test_removing_leaves_no_hook(model) -> None:
    weight = model[0].weight
    assert weight._post_accumulate_grad_hooks
    trainact.remove(model)
    assert not weight._post_accumulate_grad_hooks


@pytest.mark.parametrize("interpolated", [False, True])
def test_timms_patches_of_any_size(interpolated: bool) -> None:
    # With its interpolator NaFlexViT resizes the weight and never calls the layer.
    model = pytest.importorskip("timm").create_model(
        "naflexvit_base_patch16_gap",
        enable_patch_interpolator=True,
        depth=1,
        embed_dim=48,
        num_heads=2,
        num_classes=3,
    )
    shape = (8, 8, 3) if interpolated else (16 * 16 * 3,)
    batch = {
        "patches": torch.randn(2, 4, *shape),
        "patch_coord": torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]]).expand(2, 4, 2),
        "patch_valid": torch.ones(2, 4, dtype=torch.bool),
    }
    trainact.apply(model)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model(batch).square().sum().backward()
    said = [str(w.message) for w in told if "trainact" in str(w.message)]
    assert len(said) == interpolated
