"""What `benchmarks.treatments` times, and the studies train: arms that fit networks."""

from __future__ import annotations

import pytest
import torch

from benchmarks.treatments import RECIPES, SHAPE, comparisons, measure, step_of
from trainact.lab.recipe import Recipe
from trainact.lab.recipes import STUDIES, find_recipes

STUDIED = [r for name, r in STUDIES.items() if name.startswith("first-layer-")]
ONE_RATE = {f"{r.setting.model}-{r.setting.optimizer}": r for r in STUDIED}


@pytest.mark.parametrize("recipe", ONE_RATE.values(), ids=ONE_RATE)
def test_no_treatment_of_a_study_refuses_its_network(recipe: Recipe) -> None:
    images, labels = torch.randn(4, *SHAPE), torch.arange(4)
    for arm in recipe.arms:
        if arm.method != "zca":  # Not of the network's layers, and long to prepare.
            assert callable(step_of(recipe, arm, images, labels))


def test_every_small_network_of_the_study_is_timed() -> None:
    timed = {(r.setting.model, r.setting.optimizer) for r in find_recipes(RECIPES)}
    studied = {(r.setting.model, r.setting.optimizer) for r in STUDIED}
    assert studied - timed == {("cifar:resnet18-maxpool", "sgd")}


def test_optimizers_are_timed_by_vanilla_training() -> None:
    *of_recipes, (cases, baseline) = comparisons()
    assert len(of_recipes) == len(RECIPES)
    assert {name for _, name in of_recipes} == {"vanilla"}
    assert (list(cases), baseline) == (["sgd", "adam", "lamb", "muon"], "sgd")
    assert {arm.method for _, arm in cases.values()} == {"vanilla"}


def test_a_step_is_divided_by_the_baselines() -> None:
    (recipe,) = find_recipes(["digits-small-cnn-sgd-0.1"])
    cases = {arm.method: (recipe, arm) for arm in recipe.arms[:2]}
    vanilla, tract = measure(cases, "vanilla", rounds=1)
    assert vanilla["ratio"] == 1
    assert tract["ratio"] == tract["seconds"] / vanilla["seconds"]
    assert (tract["method"], tract["baseline"]) == ("tract", "vanilla")
