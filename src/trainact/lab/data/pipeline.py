"""Batches for training and testing: held by the device, or made by worker processes."""

from __future__ import annotations

from typing import Literal

import torch

from trainact.lab.config import RunConfig
from trainact.lab.data.batches import Batches, PlainBatches
from trainact.lab.data.images import ImageData
from trainact.lab.data.resident import CHUNK_BYTES, ResidentBatches
from trainact.lab.data.workers import WorkersBatches
from trainact.lab.experiment_options import Pipeline

PipelineName = Literal["resident", "workers"]

# Bytes of working memory for each byte that is augmented: indices, float copies, the
# chunk before and after.
WORKING_FACTOR = 32
# Of a GPU's free memory: the rest is for the model, its gradients and activations.
SHARE = 0.5


def choose_pipeline(
    name: Pipeline, data: ImageData, device: torch.device
) -> PipelineName:
    """Choose where images are augmented.

    Args:
        name: ``auto`` takes ``resident`` where the images fit comfortably, which they
            do in a device that shares the memory they are in.
        data: the images.
        device: where the model is.

    Returns:
        ``resident`` or ``workers``.
    """
    if name != "auto":
        return name
    if device.type != "cuda":
        return "resident"
    free, _ = torch.cuda.mem_get_info(device)
    needed = data.train_images.nbytes + data.test_images.nbytes
    needed += WORKING_FACTOR * CHUNK_BYTES
    return "resident" if needed <= SHARE * free else "workers"


def make_batches(
    config: RunConfig, data: ImageData, device: torch.device, pipeline: PipelineName
) -> Batches:
    """Make the training batches of a run.

    Args:
        config: of the run.
        data: the images.
        device: where the model is.
        pipeline: what `choose_pipeline` returned.

    Returns:
        To be iterated once per epoch: bytes [B, C, H, W] and labels, on the device when
        resident and in host memory otherwise.
    """
    if pipeline == "resident":
        return ResidentBatches(config, data, device)
    return WorkersBatches(config, data, device)


def test_batches(
    data: ImageData, device: torch.device, batch_size: int
) -> PlainBatches:
    """Make batches of all test images.

    Args:
        data: the images.
        device: to which they are copied once.
        batch_size: images per batch.

    Returns:
        To be iterated as often as needed.
    """
    images, labels = data.test_images.to(device), data.test_labels.to(device)
    return PlainBatches(images, labels, batch_size)
