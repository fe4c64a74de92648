"""Recipes for ImageNet and for transfers from it say what the paper and DeiT say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainact.lab.config import Setting
from trainact.lab.recipes import RECIPES

PAPER = Path(__file__).parents[3] / "shared" / "paper" / "tract-neurips2024.txt"
RESNETS = ("fig5", "fig11", "fig12")
TRANSFERS = [
    f"table4-{n}" for n in ("cifar10", "cifar100", "flowers102", "stanford-cars")
]


def setting(name: str) -> Setting:
    return RECIPES[name].setting


# Settings.


def test_the_imagenet_resnets_setting() -> None:
    given = setting("fig5-90")
    assert (given.data, given.model) == ("imagenet", "torchvision:resnet50")
    assert (given.optimizer, given.momentum) == ("sgd", 0.9)
    assert (given.weight_decay, given.decay) == (1e-4, "all")
    assert (given.batch_size, given.image_size, given.eval_crop) == (256, 224, 0.875)
    assert (given.schedule, given.gamma, given.warmup_epochs) == ("steps", 0.1, 0)
    assert (given.augment, given.normalise) == ("imagenet", "imagenet")
    assert (given.loss, given.label_smoothing) == ("cross-entropy", 0)
    assert not given.drop_last
    assert (given.precision, given.repeats) == ("32", 1)
    assert RECIPES["fig5-90"].seeds == (0,)


@pytest.mark.parametrize("family", RESNETS)
def test_the_imagenet_resnets_rate_falls_after_each_third(family: str) -> None:
    for epochs in (30, 60, 90):
        third = epochs // 3
        assert setting(f"{family}-{epochs}").milestones == (third, 2 * third)


def test_deit3s_setting() -> None:
    for name, model, side in (
        ("table3-vit-s-400", "deit3:small", 224),
        ("table3-vit-b-400", "deit3:base", 192),
    ):
        given = setting(name)
        assert (given.data, given.model, given.image_size) == ("imagenet", model, side)
        assert (given.optimizer, given.decay) == ("lamb", "matrices")
        assert (given.batch_size, given.mix_group, given.repeats) == (2048, 256, 3)
        assert (given.mixup, given.cutmix, given.label_smoothing) == (0.8, 1.0, 0.0)
        assert given.loss == "binary-cross-entropy"
        assert (given.schedule, given.warmup_epochs) == ("cosine-deit", 5)
        assert (given.warmup_lr, given.min_lr) == (1e-6, 1e-5)
        assert (given.augment, given.eval_crop) == ("three-augment", 1.0)
        assert given.drop_last
        assert given.precision == "bf16-mixed"


@pytest.mark.parametrize(
    ("name", "weight_decay", "drop_path", "epochs"),
    [
        ("vit-s-400", 0.03, 0.0, 400),
        ("vit-s-800", 0.05, 0.05, 800),
        ("vit-b-400", 0.03, 0.1, 400),
        ("vit-s-400-finetune", 0.02, 0.05, 50),
        ("vit-s-800-finetune", 0.02, 0.05, 50),
        ("vit-b-400-finetune", 0.02, 0.15, 50),
    ],
)
def test_deit3s_regularisation(
    name: str, weight_decay: float, drop_path: float, epochs: int
) -> None:
    given = setting(f"table3-{name}")
    assert (given.weight_decay, given.drop_path) == (weight_decay, drop_path)
    assert given.epochs == epochs


TUNED = {
    "epochs": 50,
    "repeats": 1,
    "augment": "three-augment-src",
    "mixup": 0.0,
    "loss": "cross-entropy",
    "label_smoothing": 0.1,
    "lr": 3e-4,
    "weight_decay": 0.02,
}
TRANSFERRED = {
    "batch_size": 768,
    "repeats": 3,
    "augment": "rand-augment",
    "eval_crop": 0.875,
    "mixup": 0.8,
    "mix_group": 96,
    "drop_path": 0.0,
    "optimizer": "sgd",
    "lr": 0.01,
    "weight_decay": 1e-4,
}


def changed(one: str, other: str) -> dict[str, Any]:
    first, second = setting(one).to_json(), setting(other).to_json()
    return {name: second[name] for name in first if first[name] != second[name]}


@pytest.mark.parametrize(
    ("parent", "variant", "difference"),
    [
        ("fig5-60", "fig11-60", {"model": "torchvision:resnet18"}),
        ("fig5-30", "fig12-30", {"model": "torchvision:resnet34"}),
        ("fig5-60", "fig5-90", {"epochs": 90, "milestones": (30, 60)}),
        (
            "table3-vit-s-400",
            "table3-vit-s-800",
            {"epochs": 800, "weight_decay": 0.05, "drop_path": 0.05},
        ),
        (
            "table3-vit-s-400",
            "table3-vit-b-400",
            {"model": "deit3:base", "image_size": 192, "lr": 3e-3, "drop_path": 0.1},
        ),
        (
            "table3-vit-s-400",
            "table3-vit-s-400-finetune",
            {**TUNED, "mix_group": 128, "drop_path": 0.05},
        ),
        ("table3-vit-s-400-finetune", "table3-vit-s-800-finetune", {}),
        (
            "table3-vit-b-400",
            "table3-vit-b-400-finetune",
            {**TUNED, "mix_group": 64, "drop_path": 0.15, "image_size": 224},
        ),
        ("table4-cifar10", "table4-cifar100", {"data": "cifar100"}),
        (
            "table4-cifar10",
            "table4-flowers102",
            {"data": "flowers102", "epochs": 5000},
        ),
        (
            "table4-cifar10",
            "table4-stanford-cars",
            {"data": "stanford-cars", "epochs": 1000},
        ),
    ],
)
def test_a_variant_differs_in_the_experiment_alone(
    parent: str, variant: str, difference: dict[str, Any]
) -> None:
    found = changed(parent, variant)
    begins_with = found.pop("begins_with", None)
    assert begins_with in (None, variant.removesuffix("-finetune"))
    assert found == difference
    one, other = RECIPES[parent], RECIPES[variant]
    assert (one.unverified, one.deviations) == (other.unverified, other.deviations)


def test_a_transfer_differs_from_the_fine_tuning_in_what_the_paper_leaves_open() -> (
    None
):
    parent, transfer = "table3-vit-s-800-finetune", "table4-cifar10"
    wanted = {
        "data": "cifar10",
        "epochs": 200,
        "begins_with": parent,
        **TRANSFERRED,
    }
    assert changed(parent, transfer) == wanted
    assert {RECIPES[name].setting.begins_with for name in TRANSFERS} == {parent}


# Weights that recipes begin with.


def test_weights_are_kept_for_recipes_that_begin_with_them() -> None:
    for recipe in list(RECIPES.values()):
        if recipe.setting.begins_with is not None:
            parent = RECIPES[recipe.setting.begins_with]
            assert {arm.name for arm in recipe.arms} <= {a.name for a in parent.arms}
            assert set(recipe.seeds) <= set(parent.seeds)
            assert recipe.setting.model == parent.setting.model
            assert list(RECIPES.values()).index(parent) < list(RECIPES.values()).index(
                recipe
            )
    begun = {recipe.setting.begins_with for recipe in list(RECIPES.values())} - {None}
    assert begun == {
        recipe.name for recipe in list(RECIPES.values()) if recipe.keep_weights
    }
    assert len(begun) == 4


# Numbers.


def numbers_of(name: str) -> list[list[float | None]]:
    """Top-1 and top-5 of the arms that have numbers, none of which has a std."""
    found = [arm.expected for arm in RECIPES[name].arms if arm.expected is not None]
    assert all(expected.top1_std is expected.top5_std is None for expected in found)
    return [[expected.top1, expected.top5] for expected in found]


def test_the_numbers_of_imagenet() -> None:
    assert numbers_of("fig5-30") == [[71.96, 90.70], [73.48, 91.61]]
    assert numbers_of("fig5-60") == [[74.98, 92.36], [75.68, 92.78]]
    assert numbers_of("fig5-90") == [[75.70, 92.74], [76.20, 93.12]]
    tuned = [f"table3-vit-{name}-finetune" for name in ("s-400", "s-800", "b-400")]
    assert [numbers_of(name) for name in tuned] == [
        [[81.23, 95.70], [81.50, 95.73]],
        [[81.97, 95.90], [82.18, 95.98]],
        [[83.34, 96.44], [83.58, 96.52]],
    ]
    assert [numbers_of(name) for name in TRANSFERS] == [
        [[98.94, None], [99.02, None]],
        [[90.70, None], [90.85, None]],
        [[94.39, None], [95.58, None]],
        [[90.44, None], [91.07, None]],
    ]


def test_the_numbers_are_those_that_the_paper_prints() -> None:
    if not PAPER.exists():
        pytest.skip(f"no {PAPER.name} beside this checkout")
    text = PAPER.read_text(encoding="utf-8").replace(" .", ".")

    def printed(line: str) -> list[float]:
        (found,) = re.findall(rf"^{line}(.*%)\s*$", text, flags=re.MULTILINE)
        return [float(number) for number in re.findall(r"\d+\.\d+", found)]

    for epochs in (30, 60, 90):
        wanted = numbers_of(f"fig5-{epochs}")
        assert printed(f"{epochs} (?=7)") == [*wanted[0], *wanted[1]]
    for name, row in (("s-400", "S"), ("s-800", "S"), ("b-400", "B")):
        length = name[-3:]
        vanilla, tract = numbers_of(f"table3-vit-{name}-finetune")
        assert printed(rf"ViT-{row} ?† {length}ep") == vanilla
        assert printed(rf"ViT-{row} \+ TrAct \( λ=0.\d\){length}ep") == tract
    columns = [numbers_of(name) for name in TRANSFERS]
    assert printed("ViT-S (?=9)") == [vanilla[0] for vanilla, _ in columns]
    assert printed(r"ViT-S \+ TrAct (?=9)") == [tract[0] for _, tract in columns]


def test_recipes_are_listed_without_heavy_imports() -> None:
    heavy = ("timm", "torchvision", "lightning", "torchmetrics", "webdataset")
    code = (
        "import sys\n"
        "import trainact.lab.recipes\n"
        f"sys.exit(', '.join(sys.modules.keys() & set({heavy})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stderr.strip() == ""
