"""Faster R-CNN with VGG-16, assembled from torchvision's parts.

The numbers are those of simple-faster-rcnn-pytorch, the code base that the paper most
likely used. All parameters are trained, also those of the first four convolutions,
which are usually frozen. The first layer is ``backbone.0``; it sees normalised images.

References:
    Ren, He, Girshick, Sun: Faster R-CNN: Towards Real-Time Object Detection with Region
    Proposal Networks, NeurIPS 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn
from torchvision.models import VGG16_Weights, vgg16
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import MultiScaleRoIAlign

from trainact.lab.config import Setting
from trainact.lab.data.normalise import STATISTICS, Statistics
from trainact.lab.detection.data import DEFAULT_SIZE
from trainact.lab.errors import LabError
from trainact.lab.weights import published_weights

NAME = "faster-rcnn-vgg16"
FIRST_LAYER = "backbone.0"
PRETRAINED = "vgg16"
# The longer side of an image is at most 1000 pixels where the shorter one is 600.
_LONGEST = 1000 / DEFAULT_SIZE
_POOLED = 7
_ANCHOR_SIZES = (128, 256, 512)
_ANCHOR_RATIOS = (0.5, 1.0, 2.0)
# Of a proposal, in pixels of the image as the model sees it.
_SMALLEST_PROPOSAL = 16.0
_TEST_PROPOSALS = 300


def build_detector(setting: Setting, num_classes: int) -> FasterRCNN:
    """Build the detector of a run.

    Args:
        setting: with the model's name, the size of images, their statistics and the
            weights to begin with.
        num_classes: without the background.

    Returns:
        A model that takes images [3, H, W] between 0 and 1, normalises them and brings
        them to size; what it adds to VGG-16 has random weights from torch's generator.

    Raises:
        LabError: if the model is another one, or the statistics are the data's own.
    """
    if setting.model != NAME:
        raise LabError(f"model {setting.model!r} finds no boxes: give {NAME}")
    statistics = STATISTICS.get(setting.normalise)
    if statistics is None:
        raise LabError(
            f"normalise {setting.normalise!r} is not for {NAME}: use 'imagenet'"
        )
    network: Any = _vgg16(setting.pretrained)
    # Without the last pooling, which regions of interest replace.
    features = network.features[:-1]
    hidden = (network.classifier[0], network.classifier[3])
    size = setting.image_size or DEFAULT_SIZE
    return assemble(features, hidden, num_classes, size, statistics)


def assemble(
    features: nn.Sequential,
    hidden: Sequence[nn.Linear],
    num_classes: int,
    image_size: int,
    statistics: Statistics,
) -> FasterRCNN:
    """Put a detector together.

    Args:
        features: maps images to features of a sixteenth of their size, C channels.
        hidden: layers of the head, the first of which takes 49 * C features.
        num_classes: without the background.
        image_size: to which an image's shorter side is brought.
        statistics: mean and std of each channel, for images between 0 and 1.

    Returns:
        The model.
    """
    backbone: Any = features
    backbone.out_channels = hidden[0].in_features // _POOLED**2
    mean, std = statistics
    model: Any = FasterRCNN(
        backbone,
        min_size=image_size,
        max_size=round(image_size * _LONGEST),
        image_mean=list(mean),
        image_std=list(std),
        rpn_anchor_generator=AnchorGenerator((_ANCHOR_SIZES,), (_ANCHOR_RATIOS,)),
        rpn_pre_nms_top_n_train=12000,
        rpn_post_nms_top_n_train=2000,
        rpn_pre_nms_top_n_test=6000,
        rpn_post_nms_top_n_test=_TEST_PROPOSALS,
        box_roi_pool=MultiScaleRoIAlign(["0"], _POOLED, sampling_ratio=2),
        box_head=_head(hidden),
        box_predictor=_predictor(hidden[-1].out_features, num_classes),
        box_score_thresh=0.05,
        box_nms_thresh=0.3,
        # As many as there can be: the source has no limit.
        box_detections_per_img=_TEST_PROPOSALS * num_classes,
        box_batch_size_per_image=128,
        size_divisible=1,  # no padding, which the first layer would see
    )
    model.rpn.min_size = _SMALLEST_PROPOSAL
    return model


def _head(hidden: Sequence[nn.Linear]) -> nn.Sequential:
    activated = (layer for each in hidden for layer in (each, nn.ReLU(inplace=True)))
    return nn.Sequential(nn.Flatten(), *activated)


def _predictor(num_features: int, num_classes: int) -> FastRCNNPredictor:
    predictor = FastRCNNPredictor(num_features, num_classes + 1)
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    return predictor


def _vgg16(pretrained: str | None) -> nn.Module:
    if pretrained is None:
        return vgg16()
    if pretrained != PRETRAINED:
        raise LabError(
            f"pretrained {pretrained!r} is not for {NAME}: give {PRETRAINED!r} or none"
        )
    network = vgg16(init_weights=False)
    network.load_state_dict(published_weights(VGG16_Weights.IMAGENET1K_V1.url))
    return network
