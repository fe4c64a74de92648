"""Batches for training and testing: held by the device, or made by worker processes."""

from __future__ import annotations

from typing import Literal

import torch

from trainact.lab.config import RunConfig
from trainact.lab.data import AnyData
from trainact.lab.data.batches import WHOLE, Batches, PlainBatches, Share
from trainact.lab.data.images import ImageData
from trainact.lab.data.photographs import Photographs
from trainact.lab.data.resident import CHUNK_BYTES, ResidentBatches
from trainact.lab.data.workers import TestBatches, WorkersBatches
from trainact.lab.detection.batches import DetectionBatches, DetectionTestBatches
from trainact.lab.detection.data import DetectionData
from trainact.lab.errors import LabError
from trainact.lab.experiment_options import Pipeline

PipelineName = Literal["resident", "workers"]

# Bytes of working memory for each byte that is augmented: indices, float copies, the
# chunk before and after.
WORKING_FACTOR = 32
# Of a GPU's free memory: the rest is for the model, its gradients and activations.
SHARE = 0.5


def choose_pipeline(
    name: Pipeline, data: AnyData, device: torch.device
) -> PipelineName:
    """Choose where images are augmented.

    Args:
        name: ``auto`` takes ``resident`` where the images fit comfortably, which they
            do in a device that shares the memory they are in.
        data: the images; those that are not in memory are read by workers.
        device: where the model is.

    Returns:
        ``resident`` or ``workers``.

    Raises:
        LabError: if images that are not in memory are to be resident.
    """
    if not isinstance(data, ImageData):
        if name == "resident":
            raise LabError(
                "--pipeline resident is for images of one size in memory and these are "
                "read one by one: leave it out"
            )
        return "workers"
    if name != "auto":
        return name
    if device.type != "cuda":
        return "resident"
    free, _ = torch.cuda.mem_get_info(device)
    needed = data.train_images.nbytes + data.test_images.nbytes
    needed += WORKING_FACTOR * CHUNK_BYTES
    return "resident" if needed <= SHARE * free else "workers"


def make_batches(
    config: RunConfig,
    data: AnyData,
    device: torch.device,
    pipeline: PipelineName,
    share: Share = WHOLE,
    num_workers: int | None = None,
) -> Batches:
    """Make the training batches of a run.

    Args:
        config: of the run.
        data: the images.
        device: where the model is.
        pipeline: what `choose_pipeline` returned.
        share: of this process.
        num_workers: processes that prepare images, see `WorkersBatches`.

    Returns:
        To be iterated once per epoch: bytes [B, C, H, W] and labels, on the device when
        resident and in host memory otherwise; or images with boxes, see
        `DetectionBatches`.
    """
    if isinstance(data, DetectionData):
        return DetectionBatches(config, data, device, share, num_workers)
    if pipeline == "resident" and isinstance(data, ImageData):
        return ResidentBatches(config, data, device, share)
    return WorkersBatches(config, data, device, share, num_workers)


def make_test_batches(
    data: AnyData,
    device: torch.device,
    batch_size: int,
    share: Share = WHOLE,
    num_workers: int | None = None,
) -> PlainBatches | TestBatches | DetectionTestBatches:
    """Make batches of all test images, or of a process's share of them.

    Args:
        data: the images.
        device: to which those in memory are copied once.
        batch_size: images per batch.
        share: of this process: every so many images, none twice.
        num_workers: processes that read photographs.

    Returns:
        To be iterated as often as needed.
    """
    if isinstance(data, DetectionData):
        return DetectionTestBatches(data, device, batch_size, share, num_workers)
    if isinstance(data, Photographs):
        return TestBatches(data, device, batch_size, share, num_workers)
    own = slice(share.rank, None, share.num_ranks)
    images, labels = data.test_images[own], data.test_labels[own]
    return PlainBatches(images.to(device), labels.to(device), batch_size)
