"""Faster R-CNN as Table 5 has it: its numbers, TrAct on its first layer, training."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, unfold
from torchvision.models import VGG16_Weights
from torchvision.models.detection import FasterRCNN

import trainact
from tests.tolerances import relative_error, solve_rtol
from trainact.lab.config import RunConfig, Setting
from trainact.lab.data.normalise import STATISTICS
from trainact.lab.detection import faster_rcnn
from trainact.lab.detection.batches import (
    DetectionBatch,
    DetectionBatches,
    DetectionTestBatches,
)
from trainact.lab.detection.data import DetectionData, load_detection
from trainact.lab.detection.faster_rcnn import assemble, build_detector
from trainact.lab.detection.task import DetectionTask
from trainact.lab.errors import LabError
from trainact.lab.methods import find_method
from trainact.lab.optimizers import make_optimizer
from trainact.lab.quiet import quiet_lightning
from trainact.lab.recipe import Expected
from trainact.lab.recipes.table5 import table5
from trainact.lab.schedules import make_schedule
from trainact.lab.trainer import make_trainer

CPU = torch.device("cpu")
RECIPE = table5()
VANILLA, TRACT = (RECIPE.config(arm, 0, "cpu") for arm in RECIPE.arms)
LAM = 0.1
SIZE = 64
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def small(setting: RunConfig) -> RunConfig:
    return replace(setting, image_size=SIZE, pretrained=None, data="smoke-voc")


@pytest.fixture(scope="module")
def data() -> DetectionData:
    return load_detection("smoke-voc", Path("nowhere"), SIZE)


@pytest.fixture(scope="module")
def built() -> FasterRCNN:
    """VGG-16 and all, with fewer regions, which take most of the time."""
    torch.manual_seed(0)
    model = build_detector(small(VANILLA), 20)
    model.roi_heads.fg_bg_sampler.batch_size_per_image = 8
    model.rpn._post_nms_top_n["testing"] = 8
    return model


@pytest.fixture
def detector(built: FasterRCNN) -> Iterator[FasterRCNN]:
    """The same one for all, without what a test left in it but for its weights."""
    yield built.train()
    built.zero_grad()
    trainact.remove(built)


def first_batch(data: DetectionData) -> DetectionBatch:
    return next(iter(DetectionBatches(small(VANILLA), data, CPU)))


# The recipe.


def test_recipe() -> None:
    assert (RECIPE.name, RECIPE.artefact, RECIPE.seeds) == ("table5", "Table 5", (0, 1))
    assert [(arm.name, arm.expected) for arm in RECIPE.arms] == [
        ("vanilla", Expected(65.9, 0.5)),
        ("tract λ=0.1", Expected(67.1, 0.4)),
    ]
    setting = RECIPE.setting
    assert (setting.epochs, setting.batch_size, setting.pretrained) == (14, 1, "vgg16")
    assert (setting.task, setting.data, setting.image_size) == (
        "detection",
        "voc2007",
        600,
    )
    assert STATISTICS[setting.normalise] == IMAGENET
    assert Setting.from_json(setting.to_json()) == setting
    assert all(text.endswith(".") for text in RECIPE.unverified + RECIPE.deviations)


def test_learning_rates_of_weights_and_biases() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2))
    optimizer = make_optimizer(model, RECIPE.setting)
    weights, biases = optimizer.param_groups
    assert [p.ndim for p in weights["params"]] == [4, 2]
    assert [p.ndim for p in biases["params"]] == [1, 1]
    assert (weights["weight_decay"], biases["weight_decay"]) == (5e-4, 0)
    assert (weights["momentum"], biases["momentum"]) == (0.9, 0.9)
    scheduler = make_schedule(optimizer, RECIPE.setting, 1)
    rates: list[list[float]] = []
    for _ in range(RECIPE.setting.epochs):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    expected = [[1e-3, 2e-3]] * 10 + [[1e-4, 2e-4]] * 4
    assert np.allclose(rates, expected)


# The model.


def test_parameters(built: FasterRCNN) -> None:
    parameters = list(built.parameters())
    assert sum(parameter.numel() for parameter in parameters) == 137_073_622
    assert all(parameter.requires_grad for parameter in parameters)
    assert not [each for each in built.modules() if isinstance(each, nn.Dropout)]


def test_layers(built: FasterRCNN) -> None:
    kinds = [type(layer).__name__ for layer in built.backbone]
    assert kinds.count("Conv2d") == 13
    assert kinds.count("MaxPool2d") == 4
    first = built.get_submodule(faster_rcnn.FIRST_LAYER)
    assert first.weight.shape == (64, 3, 3, 3)
    assert RECIPE.setting.layer == faster_rcnn.FIRST_LAYER
    heads = [type(layer).__name__ for layer in built.roi_heads.box_head]
    assert heads == ["Flatten", "Linear", "ReLU", "Linear", "ReLU"]
    predictor = built.roi_heads.box_predictor
    assert predictor.cls_score.weight.shape == (21, 4096)
    assert predictor.bbox_pred.weight.shape == (84, 4096)


def test_first_weights(built: FasterRCNN) -> None:
    predictor, proposals = built.roi_heads.box_predictor, built.rpn.head
    stds = {
        predictor.cls_score: 0.01,
        predictor.bbox_pred: 0.001,
        proposals.conv[0][0]: 0.01,
        proposals.cls_logits: 0.01,
        proposals.bbox_pred: 0.01,
    }
    for layer, std in stds.items():
        count = layer.weight.numel()
        # Four standard deviations of a standard deviation.
        bound = 4 * std / np.sqrt(2 * count)
        assert abs(layer.weight.std().item() - std) < bound
        assert abs(layer.weight.mean().item()) < 4 * std / np.sqrt(count)
        assert not layer.bias.any()


def test_numbers() -> None:
    model = assemble(nn.Sequential(), [nn.Linear(49, 2)], 20, 600, IMAGENET)
    rpn, heads, sizes = model.rpn, model.roi_heads, model.transform
    assert (sizes.min_size, sizes.max_size) == ((600,), 1000)
    assert rpn._pre_nms_top_n == {"training": 12000, "testing": 6000}
    assert rpn._post_nms_top_n == {"training": 2000, "testing": 300}
    assert (rpn.nms_thresh, rpn.min_size) == (0.7, 16)
    assert rpn.anchor_generator.sizes == ((128, 256, 512),)
    assert rpn.anchor_generator.aspect_ratios == ((0.5, 1.0, 2.0),)
    matcher, sampler = rpn.proposal_matcher, rpn.fg_bg_sampler
    assert (matcher.high_threshold, matcher.low_threshold) == (0.7, 0.3)
    assert (sampler.batch_size_per_image, sampler.positive_fraction) == (256, 0.5)
    matcher, sampler = heads.proposal_matcher, heads.fg_bg_sampler
    assert (matcher.high_threshold, matcher.low_threshold) == (0.5, 0.5)
    assert (sampler.batch_size_per_image, sampler.positive_fraction) == (128, 0.25)
    assert heads.box_coder.weights == (10, 10, 5, 5)
    assert heads.box_roi_pool.output_size == (7, 7)
    assert (heads.score_thresh, heads.nms_thresh) == (0.05, 0.3)
    assert heads.detections_per_img == 300 * 20


def test_the_first_layer_sees_normalised_images_without_padding(
    detector: FasterRCNN, data: DetectionData
) -> None:
    seen: list[Tensor] = []
    layer = detector.get_submodule(faster_rcnn.FIRST_LAYER)
    handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    image_CHW = data.train[0].read().float() / 255
    with torch.no_grad():
        detector.eval()([image_CHW])
    handle.remove()
    mean, std = (torch.tensor(values)[:, None, None] for values in IMAGENET)
    expected = interpolate(
        ((image_CHW - mean) / std)[None],
        scale_factor=SIZE / 48,
        mode="bilinear",
        recompute_scale_factor=True,
    )
    assert seen[0].shape == (1, 3, 64, 85)
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model": "vgg16"}, "model 'vgg16' finds no boxes: give faster-rcnn-vgg16"),
        ({"normalise": "data"}, "normalise 'data' is not for faster-rcnn-vgg16"),
        ({"pretrained": "resnet50"}, "pretrained 'resnet50' is not for faster-rcnn"),
    ],
)
def test_other_settings_are_refused(changes: dict[str, str], expected: str) -> None:
    with pytest.raises(LabError, match=expected):
        build_detector(replace(RECIPE.setting, **changes), 20)


def test_without_a_network_it_says_where_the_weights_belong(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(url: str, *_: object) -> None:
        assert url == VGG16_Weights.IMAGENET1K_V1.url
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(LabError) as caught:
        build_detector(RECIPE.setting, 20)
    name = "vgg16-397923af.pth"
    assert str(caught.value) == (
        f"cannot get torchvision's weights {name} (<urlopen error no network>): "
        f"without a network, put that file at {tmp_path / 'checkpoints' / name}"
    )


def test_pretrained_layers_are_part_of_the_detector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = nn.Module()
    network.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2))
    network.classifier = nn.Sequential(
        nn.Linear(8 * 49, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, 5)
    )
    monkeypatch.setattr(faster_rcnn, "vgg16", lambda **_: network)
    state = {name: value + 1 for name, value in network.state_dict().items()}
    monkeypatch.setattr(faster_rcnn, "published_weights", lambda _: state)
    model = build_detector(RECIPE.setting, 20)
    assert list(model.backbone) == [network.features[0]]
    assert torch.equal(model.backbone[0].weight, state["features.0.weight"])
    head = model.roi_heads.box_head
    assert (head[1], head[3]) == (network.classifier[0], network.classifier[3])


# TrAct.


def gradient(model: FasterRCNN, batch: DetectionBatch) -> Tensor:
    task = DetectionTask(model, small(VANILLA))
    model.zero_grad()
    torch.manual_seed(3)  # which regions are trained on
    task.compute_loss(batch, 0).backward()
    weight = model.get_parameter(f"{faster_rcnn.FIRST_LAYER}.weight")
    assert weight.grad is not None
    return weight.grad.clone()


def test_tract_divides_the_gradient_of_the_first_layer(
    detector: FasterRCNN, data: DetectionData
) -> None:
    batch = first_batch(data)
    seen: list[Tensor] = []
    layer = detector.get_submodule(faster_rcnn.FIRST_LAYER)
    handle = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    plain = gradient(detector, batch)
    handle.remove()
    bias = layer.bias.grad.clone()
    other = detector.backbone[2].weight.grad.clone()
    trainact.apply(detector, lam=LAM, layer=RECIPE.setting.layer)
    found = gradient(detector, batch)

    rows_NP = unfold(seen[0].double(), 3, padding=1)[0].T.numpy()
    gram_PP = rows_NP.T @ rows_NP / len(rows_NP)
    damped_PP = gram_PP + LAM * np.eye(27)
    plain_OP = plain.double().flatten(1).numpy()
    expected_OP = np.linalg.solve(damped_PP, plain_OP.T).T
    rtol = solve_rtol(torch.float32, rows_NP, LAM)
    assert relative_error(found.flatten(1), expected_OP) < rtol
    assert relative_error(found, plain) > 100 * rtol
    assert relative_error(layer.bias.grad, bias) < rtol
    assert relative_error(detector.backbone[2].weight.grad, other) < rtol


# Training.


def thin(image_size: int) -> FasterRCNN:
    """Of the same make, with few channels."""
    layers: list[nn.Module] = []
    for before, after in ((3, 16), (16, 16), (16, 32), (32, 32)):
        convolution = nn.Conv2d(before, after, 3, padding=1)
        nn.init.kaiming_normal_(convolution.weight)
        layers += [convolution, nn.ReLU(), nn.MaxPool2d(2)]
    hidden = [nn.Linear(49 * 32, 64), nn.Linear(64, 64)]
    return assemble(nn.Sequential(*layers), hidden, 20, image_size, IMAGENET)


def fit(config: RunConfig, model: nn.Module, data: DetectionData) -> DetectionTask:
    task = DetectionTask(model, config)
    task.batches = DetectionBatches(config, data, CPU)
    with quiet_lightning():
        make_trainer(config, CPU, []).fit(
            task,
            task.batches,
            DetectionTestBatches(data, CPU, config.batch_size),
        )
    return task


def test_a_step_of_the_whole_detector_trains_it_and_its_test_finds_something(
    detector: FasterRCNN, data: DetectionData
) -> None:
    before = [p.detach().clone() for p in detector.backbone.parameters()]
    trainact.apply(detector, lam=LAM, layer=RECIPE.setting.layer)
    one = replace(data, train=data.train[:1], test=data.test[:1])
    task = fit(replace(small(TRACT), epochs=1), detector, one)
    (epoch,) = task.history
    assert np.isfinite(epoch.loss)
    assert 0 <= epoch.accuracy <= 1
    assert epoch.top5 is None
    for old, new in zip(before, detector.backbone.parameters(), strict=True):
        assert not torch.equal(old, new)


def test_two_images_can_be_learned() -> None:
    data = load_detection("smoke-voc", Path("nowhere"), 96)
    data = replace(data, test=data.train)
    changes = {"epochs": 50, "milestones": (35,), "lr": 0.02, "batch_size": 2}
    config = replace(TRACT, data="smoke-voc", image_size=96, **changes)
    torch.manual_seed(0)
    model = trainact.apply(thin(96), lam=LAM, layer=config.layer)
    history = fit(config, model, data).history
    scores = [epoch.accuracy for epoch in history]
    assert max(scores[:2]) < 0.6
    assert min(scores[-5:]) > 0.9
    assert history[-1].loss < history[0].loss / 2


def test_a_test_counts_difficult_objects_neither_way(data: DetectionData) -> None:
    """Whatever it says of the difficult car of the last image, mAP is 1."""
    batches = list(DetectionTestBatches(data, CPU, 1))
    for keeps in (True, False):
        task = DetectionTask(_Knowing(data, keeps_difficult=keeps), small(VANILLA))
        for batch in batches:
            task.test_batch(batch)
        assert task.scores() == (1.0, None)
        task.reset_scores()
        for images, targets in batches:  # all in the wrong places
            moved = [{**t, "boxes": t["boxes"] + 30} for t in targets]
            task.test_batch((images, moved))
        assert task.scores() == (0.0, None)


class _Knowing(nn.Module):
    """Finds what there is, counting labels from 1."""

    def __init__(self, data: DetectionData, *, keeps_difficult: bool) -> None:
        super().__init__()
        self.data, self.keeps = data, keeps_difficult

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert 0 <= images[0].min() < images[0].max() == 1
        (example,) = (
            each
            for each in self.data.test
            if torch.equal(each.read().float() / 255, images[0])
        )
        objects = example.objects if self.keeps else example.objects.easy()
        return [
            {
                "boxes": torch.from_numpy(objects.boxes),
                "labels": torch.from_numpy(objects.labels) + 1,
                "scores": torch.ones(len(objects.labels)),
            }
        ]


def test_methods_of_the_recipe_exist() -> None:
    for arm in RECIPE.arms:
        assert find_method(arm.method).uses_lam == (arm.lam is not None)
    assert "Table 5" in (inspect.getdoc(table5) or "")
