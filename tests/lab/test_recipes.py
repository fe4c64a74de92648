"""Recipes say what the paper says; `trainact recipes` and the docs say what they do."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from trainact.lab.config import Setting
from trainact.lab.data.augment import PIPELINES
from trainact.lab.data.normalise import STATISTICS
from trainact.lab.data.photographs import is_photographic
from trainact.lab.losses import LOSSES, check_smoothing
from trainact.lab.methods import METHODS as KNOWN_METHODS
from trainact.lab.models import resolve_model
from trainact.lab.optimizers import DECAYS
from trainact.lab.recipe import Recipe
from trainact.lab.recipes import RECIPES, STUDIES, find_recipes, header
from trainact.lab.recipes.optimizer_study import RATES
from trainact.lab.schedules import SCHEDULES

ALL = list(RECIPES.values())
LENGTHS = (100, 200, 400, 800)
DATA = {
    *("cifar10", "cifar100", "imagenet", "flowers102", "stanford-cars", "voc2007"),
}
# Of a setting, since there are experiments beyond CIFAR: no part of older hashes.
NEW = {
    *("task", "loss", "decay", "warmup_lr", "drop_path", "mixup", "cutmix"),
    *("mix_group", "repeats", "eval_crop", "pretrained"),
}
METHODS = {"vanilla", "tract", "tract+sgd", "patchnorm", "dual-patchnorm"}
AUGMENTS = {"crop-flip", "crop-flip-rotate", "crop-flip-autoaugment"}


def family(recipe: Recipe) -> str:
    return recipe.name.partition("-")[0]


LATER = {"fig5", "fig11", "fig12", "table3", "table4", "table5"}
CIFAR = [recipe for recipe in ALL if family(recipe) not in LATER]


def setting(name: str) -> Setting:
    return RECIPES[name].setting


def lams(name: str) -> list[float | None]:
    return [arm.lam for arm in RECIPES[name].arms if arm.method == "tract"]


# What recipes there are.


def test_counts() -> None:
    counts = Counter(map(family, ALL))
    assert counts == {
        "fig3": 8,
        "fig4": 4,
        "fig5": 3,
        "fig6": 1,
        "fig7": 4,
        "fig8": 2,
        "fig9": 4,
        "fig10": 8,
        "fig11": 3,
        "fig12": 3,
        "table1": 36,
        "table3": 6,
        "table4": 4,
        "table5": 1,
        "table7": 36,
    }
    assert len(CIFAR) == 103
    assert len(ALL) == 123


def test_settings_are_shared_only_where_the_paper_means_the_same_runs() -> None:
    sharing = defaultdict(set)
    for recipe in ALL:
        sharing[recipe.setting].add(recipe.name)
    several = [names for names in sharing.values() if len(names) > 1]
    wanted: list[set[str]] = []
    for length in LENGTHS:
        wanted.append({f"fig3-adam-{length}", f"fig9-{length}"})
        wanted.append({f"fig4-{length}", f"fig7-{length}"})
    wanted[3].add("fig6")
    assert sorted(map(sorted, several)) == sorted(map(sorted, wanted))


@pytest.mark.parametrize(
    ("one", "other", "arms"),
    [
        ("fig4-200", "fig6", {"vanilla", "tract λ=0.05", "tract λ=0.1", "tract λ=0.2"}),
        ("fig4-200", "fig7-200", {arm.name for arm in RECIPES["fig4-200"].arms}),
        ("fig3-adam-800", "fig9-800", {a.name for a in RECIPES["fig3-adam-800"].arms}),
    ],
)
def test_shared_arms_are_the_same_runs(one: str, other: str, arms: set[str]) -> None:
    first, second = (
        {
            arm.name: RECIPES[name].config(arm, 3, "cpu").key("hash")
            for arm in RECIPES[name].arms
        }
        for name in (one, other)
    )
    assert first.keys() & second.keys() == arms
    assert all(first[arm] == second[arm] for arm in arms)


# That each is sound.


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_fields(recipe: Recipe) -> None:
    given = recipe.setting
    assert RECIPES[recipe.name] is recipe
    assert given.data in DATA
    assert given.normalise in STATISTICS
    assert given.schedule in SCHEDULES
    assert given.loss in LOSSES
    assert given.decay in DECAYS
    assert given.limit is None
    check_smoothing(given.loss, given.label_smoothing)
    assert {arm.method for arm in recipe.arms} <= METHODS
    assert len({arm.name for arm in recipe.arms}) == len(recipe.arms)
    for arm in recipe.arms:
        assert (arm.lam is not None) == arm.method.startswith("tract")
    assert recipe.arms[0].name == "vanilla" or family(recipe) == "table7"
    assert list(given.milestones) == sorted(m for m in given.milestones if m > 0)
    assert given.warmup_epochs < min((given.epochs, *given.milestones))


@pytest.mark.parametrize("recipe", CIFAR, ids=lambda recipe: recipe.name)
def test_fields_of_cifar(recipe: Recipe) -> None:
    given = recipe.setting
    assert given.data in {"cifar10", "cifar100"}
    assert given.model.startswith("cifar:")
    assert given.augment in AUGMENTS
    assert given.precision == "32"
    assert (given.batch_size, given.layer) == (128, None)
    assert recipe.seeds == (0, 1, 2, 3, 4)
    assert (recipe.setting.begins_with, recipe.keep_weights) == (None, False)
    assert not NEW & given.identity().keys()


@pytest.mark.parametrize(
    "recipe",
    [recipe for recipe in ALL if recipe.setting.task == "classification"],
    ids=lambda recipe: recipe.name,
)
def test_what_is_named_exists(recipe: Recipe) -> None:
    given = recipe.setting
    assert resolve_model(given.model) == given.model
    assert given.augment in PIPELINES or is_photographic(given.augment)
    assert {arm.method for arm in recipe.arms} <= set(KNOWN_METHODS)


@pytest.mark.parametrize("recipe", ALL, ids=lambda recipe: recipe.name)
def test_words(recipe: Recipe) -> None:
    for part in ("Source: ", "Hardware: ", "Numbers: "):
        assert part in header(recipe)
    assert "Args" not in header(recipe)
    assert "Returns" not in header(recipe)
    sentences = (recipe.claim, *recipe.unverified, *recipe.deviations)
    assert all(s.endswith(".") and "  " not in s and s.strip() == s for s in sentences)
    assert len(set(sentences)) == len(sentences)
    assert (recipe.hours is None) == (recipe.hardware == "")


def test_times_that_the_paper_gives() -> None:
    """Section 4.6: 1091 s, 133:52 h and 98:28 h."""
    hours = {name: recipe.hours for name, recipe in RECIPES.items()}
    assert (hours["fig4-100"], hours["fig7-800"]) == (0.3, 2.4)
    assert hours["table3-vit-s-800"] == pytest.approx(133 + 52 / 60, abs=0.05)
    assert hours["table3-vit-b-400"] == pytest.approx(98 + 28 / 60, abs=0.05)
    assert not any(hours[name] for name in hours if name.endswith("finetune"))


TUNED_STUDIES = [
    recipe
    for recipe in STUDIES.values()
    if recipe.name.startswith(("first-layer-", "optimizers-", "digits-"))
]


@pytest.mark.parametrize("recipe", TUNED_STUDIES, ids=lambda recipe: recipe.name)
def test_tuned_studies(recipe: Recipe) -> None:
    """Every arm has the same learning rates, and one λ."""
    given = recipe.setting
    family, *problem, optimizer, lr = recipe.name.split("-")
    assert (given.optimizer, f"{given.lr:g}") == (optimizer, lr)
    if family == "optimizers":
        assert problem == [given.data, str(given.epochs)]
    else:
        model = given.model.rpartition(":")[2]
        first = ["first", "layer"] if given.data == "cifar10" else ["digits"]
        assert [*first, *model.split("-")] == [family, *problem]
    rates = find_recipes([recipe.name.removesuffix(f"-{lr}")])
    assert {r.setting.lr for r in rates} == set(RATES[optimizer])
    assert {r.arms for r in rates} == {recipe.arms}
    assert {arm.lam for arm in recipe.arms} == {None, 0.1}


@pytest.mark.parametrize("pixels", ["0-1", "0-255", "cifar10"])
@pytest.mark.parametrize("prefix", ["", "small-vit-"], ids=["cnn", "vit"])
def test_damping_studies(prefix: str, pixels: str) -> None:
    """Standardised, they are what the benchmark trains."""
    recipe = STUDIES[f"damping-{prefix}{pixels}"]
    assert recipe.setting.normalise == pixels
    parent = "vit-adamw-0.001" if prefix else "cnn-sgd-0.1"
    standardised = replace(recipe.setting, normalise="cifar10")
    assert standardised == STUDIES[f"first-layer-small-{parent}"].setting
    assert {arm.lam for arm in recipe.arms} == {None, 0.01, 0.1, 1.0}


@pytest.mark.parametrize("recipe", STUDIES.values(), ids=lambda recipe: recipe.name)
def test_studies(recipe: Recipe) -> None:
    """What is not the paper's: named after what differs, the baseline first."""
    assert find_recipes([recipe.name]) == [recipe]
    assert recipe.arms[0].name == "vanilla"
    for arm in recipe.arms:
        assert (arm.lam is not None) == KNOWN_METHODS[arm.method].uses_lam
    for part in ("Source: ", "Hardware: ", "Numbers: "):
        assert part in header(recipe)


def test_frozen_and_hashable() -> None:
    assert len(set(ALL)) == len(ALL)
    with pytest.raises(FrozenInstanceError):
        ALL[0].name = "other"


def test_recipes_of_one_artefact_have_the_same_sentences() -> None:
    """The docs print them once for each artefact."""
    found = defaultdict(set)
    for recipe in ALL:
        found[recipe.artefact].add((recipe.unverified, recipe.deviations))
    assert {artefact: len(kinds) for artefact, kinds in found.items()} == dict.fromkeys(
        found, 1
    )


# What the paper says.


@pytest.mark.parametrize(
    ("name", "lr"),
    [
        *((f"{figure}-sgd-{n}", 0.08) for figure in ("fig3", "fig10") for n in LENGTHS),
        ("fig3-adam-100", 0.01),
        ("fig3-adam-200", 0.01),
        ("fig3-adam-400", 0.001),
        ("fig3-adam-800", 0.001),
        ("fig10-adam-200", 0.01),
        ("fig10-adam-400", 0.001),
        ("fig4-100", 1e-3),
        ("fig4-200", 10**-3.2),
        ("fig4-400", 10**-3.5),
        ("fig4-800", 10**-3.5),
        ("fig6", 6.309573444801933e-4),
        ("fig8-0-255", 6.309573444801933e-4),
        ("fig9-100", 0.01),
        ("table1-vgg16", 0.1),
        ("table7-vgg16", 0.1),
        *((f"{figure}-30", 0.141) for figure in ("fig5", "fig11", "fig12")),
        *((f"{figure}-60", 0.1) for figure in ("fig5", "fig11", "fig12")),
        *((f"{figure}-90", 0.1) for figure in ("fig5", "fig11", "fig12")),
        ("table3-vit-s-400", 4e-3),
        ("table3-vit-s-800", 4e-3),
        ("table3-vit-b-400", 3e-3),
        ("table3-vit-b-400-finetune", 3e-4),
        ("table4-flowers102", 0.01),
    ],
)
def test_learning_rates(name: str, lr: float) -> None:
    assert setting(name).lr == pytest.approx(lr, rel=1e-14)


def test_lams() -> None:
    usual = [0.05, 0.1, 0.2]
    for name in ("fig3-sgd-100", "fig4-400", "fig7-100", "fig9-800", "fig10-adam-200"):
        assert lams(name) == usual
    doubling = [0.00625 * 2**k for k in range(9)]
    assert lams("fig6") == pytest.approx(doubling)
    assert lams("fig8-0-1") == lams("fig8-0-255") == pytest.approx(doubling[:8])
    assert lams("table1-resnet50") == lams("table7-resnet50") == [0.1]
    for name in ("fig5-30", "fig11-60", "fig12-90"):
        assert lams(name) == usual
    assert lams("table3-vit-s-400") == lams("table3-vit-b-400-finetune") == [0.1]
    assert lams("table3-vit-s-800") == lams("table3-vit-s-800-finetune") == [0.2]
    assert lams("table4-cifar10") == [0.2]


def test_the_resnets_setting() -> None:
    for name, optimizer in (("fig3-sgd-100", "sgd"), ("fig3-adam-400", "adam")):
        given = setting(name)
        assert given.optimizer == optimizer
        assert given.data == "cifar10"
        assert given.model == "cifar:resnet18-maxpool"
        assert (given.momentum, given.weight_decay) == (0.9, 0)
        assert (given.label_smoothing, given.drop_last) == (0, True)
        assert (given.augment, given.normalise) == ("crop-flip", "cifar10-released")
        assert (given.schedule, given.warmup_epochs) == ("cosine", 0)


def test_the_vits_setting() -> None:
    given = setting("fig4-800")
    assert (given.data, given.model) == ("cifar10", "cifar:vit")
    assert (given.optimizer, given.weight_decay) == ("adam", 5e-5)
    assert given.schedule == "cosine-epochs"
    assert (given.warmup_epochs, given.min_lr) == (5, 1e-5)
    assert not given.drop_last
    assert given.augment == "crop-flip-autoaugment"
    assert given.normalise == "cifar10"


def test_label_smoothing_is_that_of_the_vits_source() -> None:
    logits_1K = torch.randn(1, 10, dtype=torch.float64)
    wanted_K = torch.full((10,), 0.1 / 9, dtype=torch.float64)
    wanted_K[3] = 0.9
    loss = cross_entropy(
        logits_1K,
        torch.tensor([3]),
        label_smoothing=setting("fig4-200").label_smoothing,
    )
    torch.testing.assert_close(loss, -(wanted_K * logits_1K.log_softmax(1)).sum())


def test_the_tables_setting() -> None:
    given = setting("table1-wideresnet")
    assert (given.data, given.model) == ("cifar100", "cifar:wideresnet")
    assert (given.optimizer, given.momentum) == ("sgd", 0.9)
    assert given.weight_decay == 5e-4
    assert (given.epochs, given.warmup_epochs) == (200, 1)
    assert (given.schedule, given.gamma) == ("steps", 0.2)
    assert given.milestones == (59, 119, 159)
    assert (given.augment, given.normalise) == ("crop-flip-rotate", "cifar100")
    assert not given.drop_last


def changed(one: str, other: str) -> dict[str, Any]:
    first, second = setting(one).to_json(), setting(other).to_json()
    return {name: second[name] for name in first if first[name] != second[name]}


@pytest.mark.parametrize(
    ("parent", "variant", "difference"),
    [
        ("fig4-200", "fig8-0-1", {"normalise": "0-1"}),
        ("fig4-200", "fig8-0-255", {"normalise": "0-255"}),
        ("fig3-sgd-100", "fig10-sgd-100", {"data": "cifar100"}),
        ("fig3-adam-800", "fig10-adam-800", {"data": "cifar100"}),
        ("fig3-adam-200", "fig9-200", {}),
        ("fig4-100", "fig7-100", {}),
        (
            "table1-nasnet",
            "table7-nasnet",
            {"epochs": 133, "milestones": (39, 79, 106)},
        ),
        ("table1-nasnet", "table1-vgg11", {"model": "cifar:vgg11"}),
    ],
)
def test_a_variant_differs_in_the_experiment_alone(
    parent: str, variant: str, difference: dict[str, Any]
) -> None:
    assert changed(parent, variant) == difference
    inherited = set(RECIPES[parent].unverified) | set(RECIPES[parent].deviations)
    own = {*RECIPES[variant].unverified, *RECIPES[variant].deviations}
    assert inherited <= own


def test_arms_that_are_added() -> None:
    fig7, fig9 = RECIPES["fig7-100"].arms, RECIPES["fig9-100"].arms
    assert [arm.name for arm in fig7[4:]] == ["patchnorm", "dual-patchnorm"]
    assert [arm.name for arm in fig9[4:]] == ["tract+sgd λ=0.1"]
    assert setting("fig9-100").first_layer_lr == 0.08
