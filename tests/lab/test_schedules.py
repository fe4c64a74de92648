"""Schedules give the rates of the code that the paper's experiments come from.

Its rates here were read off torch's schedulers, stacked and stepped as that code does.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import groupby

import pytest
import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from torch import nn
from torch.optim import SGD, Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler, MultiStepLR

from trainact.lab.config import Setting
from trainact.lab.recipes import RECIPES
from trainact.lab.schedules import SCHEDULES, make_schedule

SETTING = Setting(
    data="digits", model="mlp", epochs=4, batch_size=8, optimizer="sgd", lr=0.1
)


def parameter() -> nn.Parameter:
    return nn.Parameter(torch.zeros(1))


def rates(setting: Setting, steps_per_epoch: int) -> list[float]:
    """The rate of every step."""
    factor = SCHEDULES[setting.schedule](setting, steps_per_epoch)
    num_steps = setting.epochs * steps_per_epoch
    return [setting.lr * factor(step) for step in range(num_steps)]


def epoch_rates(setting: Setting) -> list[float]:
    """The rate of every epoch, for a schedule that has one."""
    steps = rates(setting, 3)
    assert steps[0::3] == steps[1::3] == steps[2::3], "one rate for an epoch"
    return steps[0::3]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_group_keeps_its_own_rate(schedule: str) -> None:
    setting = replace(SETTING, schedule=schedule, warmup_epochs=1, milestones=(2,))
    groups = [
        {"params": [parameter()], "lr": 0.5},
        {"params": [parameter()], "lr": 0.02},
    ]
    optimizer = SGD(groups, lr=0.1)
    scheduler = make_schedule(optimizer, setting, steps_per_epoch=5)
    factor = SCHEDULES[schedule](setting, 5)
    for step in range(20):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert first == pytest.approx(0.5 * factor(step), rel=1e-12)
        assert second == pytest.approx(0.02 * factor(step), rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_a_resumed_schedule_goes_on_where_it_was() -> None:
    setting = replace(SETTING, schedule="cosine-epochs", warmup_epochs=1)
    whole, half = (_start(setting) for _ in range(2))
    for _ in range(7):
        _step(half)
    again = _start(setting)
    for part, old in zip(again, half, strict=True):
        part.load_state_dict(old.state_dict())
    for step in range(20):
        if step >= 7:
            assert again[1].get_last_lr() == whole[1].get_last_lr()
            _step(again)
        _step(whole)


def _start(setting: Setting) -> tuple[SGD, LRScheduler]:
    optimizer = SGD([parameter()], lr=setting.lr)
    return optimizer, make_schedule(optimizer, setting, steps_per_epoch=5)


def _step(parts: tuple[SGD, LRScheduler]) -> None:
    for part in parts:
        part.step()


def test_constant() -> None:
    assert set(rates(replace(SETTING, schedule="constant"), 5)) == {0.1}


@pytest.mark.parametrize("min_lr", [0.0, 0.003])
def test_cosine_is_torchs(min_lr: float) -> None:
    setting = replace(SETTING, schedule="cosine", epochs=10, min_lr=min_lr)
    optimizer = SGD([parameter()], lr=0.1)
    theirs = CosineAnnealingLR(optimizer, T_max=390, eta_min=min_lr)
    for ours in rates(setting, 39):
        # torch multiplies its way from step to step and rounds each time.
        assert abs(ours - theirs.get_last_lr()[0]) < 1e-12 * 0.1
        optimizer.step()
        theirs.step()


def test_cosine_ends_after_the_last_step() -> None:
    setting = RECIPES["fig3-sgd-100"].setting
    factor = SCHEDULES["cosine"](setting, 390)
    assert factor(0) == 1
    assert factor(50 * 390) == pytest.approx(0.5)
    assert 0 < factor(100 * 390 - 1) < 1e-8
    assert factor(100 * 390) == 0


def test_the_vits_warm_up() -> None:
    setting = replace(RECIPES["fig4-200"].setting, lr=1e-3)
    first = [rate / 1e-3 for rate in epoch_rates(setting)[:8]]
    assert first[:7] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1], abs=1e-12)
    assert first[0] == 0
    assert first[7] == pytest.approx(0.999938933078422, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "lr", "middle", "last"),
    [
        ("fig4-200", 1e-3, 5.593184839900673e-4, 1.2989327049686102e-05),
        ("fig4-100", 1e-3, 2.192120284032009e-05, 2.192120284032009e-05),
        ("fig4-200", 10**-3.2, 3.5454883544682586e-4, 1.1874994531874642e-05),
        ("fig4-400", 10**-3.5, 2.7716750444305524e-4, 1.023134015619546e-05),
        ("fig4-800", 10**-3.5, 3.0612971083692424e-4, 1.005784596606517e-05),
    ],
)
def test_the_vits_cosine_ends_above_its_minimum(
    name: str, lr: float, middle: float, last: float
) -> None:
    found = epoch_rates(replace(RECIPES[name].setting, lr=lr))
    assert found[99] == pytest.approx(middle, abs=1e-12 * lr)
    assert found[-1] == pytest.approx(last, abs=1e-12 * lr)
    assert found[-1] > 1e-5


def test_the_vits_schedule_is_torchs_cosine_after_a_warm_up() -> None:
    setting = replace(RECIPES["fig4-100"].setting, epochs=30)
    optimizer = Adam([parameter()], lr=setting.lr)
    cosine = CosineAnnealingLR(optimizer, T_max=30, eta_min=1e-5)
    for ours in epoch_rates(setting)[6:]:
        assert abs(ours - cosine.get_last_lr()[0]) < 1e-12 * setting.lr
        optimizer.step()
        cosine.step()


def test_without_a_warm_up_the_vits_schedule_starts_at_the_whole_rate() -> None:
    setting = replace(SETTING, schedule="cosine-epochs", warmup_epochs=0)
    assert epoch_rates(setting)[:2] == [0.1, 0.1]


def deits_rates(setting: Setting) -> list[float]:
    """Of timm's scheduler, told after every epoch that it is over, as DeiT does it."""
    optimizer = SGD([parameter()], lr=setting.lr)
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=setting.epochs,
        lr_min=setting.min_lr,
        warmup_t=setting.warmup_epochs,
        warmup_lr_init=setting.warmup_lr,
    )
    found: list[float] = []
    for epoch in range(setting.epochs):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(epoch)
    return found


@pytest.mark.parametrize(
    "name",
    [
        *("table3-vit-s-400", "table3-vit-s-800", "table3-vit-b-400"),
        *("table3-vit-b-400-finetune", "table4-flowers102"),
    ],
)
@pytest.mark.parametrize("warmup_epochs", [0, 1, 5])
def test_deits_schedule_is_timms(name: str, warmup_epochs: int) -> None:
    setting = replace(RECIPES[name].setting, warmup_epochs=warmup_epochs)
    wanted = deits_rates(setting)
    assert epoch_rates(setting) == pytest.approx(wanted, rel=1e-12)


def test_deits_first_two_epochs_have_the_rate_of_the_warm_ups_start() -> None:
    found = epoch_rates(RECIPES["table3-vit-s-400"].setting)
    fifth = (4e-3 - 1e-6) / 5
    wanted = [1e-6, 1e-6, 1e-6 + fifth, 1e-6 + 2 * fifth, 1e-6 + 3 * fifth]
    assert found[:5] == pytest.approx(wanted, rel=1e-12)
    # The cosine has begun with the run: it is a little below the whole rate by now.
    peak = 1e-5 + (4e-3 - 1e-5) * (1 + math.cos(math.pi * 5 / 400)) / 2
    assert found[6] == max(found) == pytest.approx(peak, rel=1e-12)
    assert peak < 4e-3
    assert 1e-5 < found[-1] < 1.1e-5


def test_the_tables_warm_up() -> None:
    first = rates(RECIPES["table1-resnet18"].setting, 391)[:392]
    assert first[0] == 0
    assert first[1] == pytest.approx(0.1 / 391, abs=1e-12)
    assert first[390] == pytest.approx(0.09974424552174567, abs=1e-11)
    assert first[391] == 0.1


def runs_of_rates(name: str) -> list[tuple[float, int]]:
    """Each rate with the number of epochs that it lasts, the warm-up as its goal."""
    setting = RECIPES[name].setting
    last = rates(setting, 7)[6::7]
    if setting.warmup_epochs:
        last[0] = setting.lr
    return [(rate, len(list(group))) for rate, group in groupby(last)]


@pytest.mark.parametrize(
    ("name", "lengths"),
    [("table1-resnet18", [59, 60, 40, 41]), ("table7-resnet18", [39, 40, 27, 27])],
)
def test_the_tables_milestones(name: str, lengths: list[int]) -> None:
    found = runs_of_rates(name)
    assert [length for _, length in found] == lengths
    wanted = [0.1, 0.02, 0.004, 0.0008]
    assert [rate for rate, _ in found] == pytest.approx(wanted)


@pytest.mark.parametrize("family", ["fig5", "fig11", "fig12"])
@pytest.mark.parametrize(("epochs", "lr"), [(30, 0.141), (60, 0.1), (90, 0.1)])
def test_the_imagenet_resnets_milestones(family: str, epochs: int, lr: float) -> None:
    rates, lengths = zip(*runs_of_rates(f"{family}-{epochs}"), strict=True)
    assert lengths == (epochs // 3,) * 3
    assert rates == pytest.approx((lr, lr / 10, lr / 100))


def test_milestones_are_torchs() -> None:
    setting = RECIPES["table1-resnet18"].setting
    optimizer = SGD([parameter()], lr=setting.lr)
    theirs = MultiStepLR(optimizer, setting.milestones, gamma=0.2)
    for epoch, ours in enumerate(rates(setting, 2)[1::2]):
        if epoch > 0:
            assert math.isclose(ours, theirs.get_last_lr()[0], rel_tol=1e-12)
        optimizer.step()
        theirs.step()
