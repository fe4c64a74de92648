"""scikit-learn's bundled handwritten digits: 1,797 real 8x8 images, no download."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trainact.lab.data.images import ImageData, stratified_split

# A quarter for testing: 450 images, so that one image is 0.22 points of accuracy.
TEST_FRACTION = 0.25


def load() -> ImageData:
    """Load the digits with a fixed stratified split.

    Returns:
        1,347 training and 450 test images of 1 x 8 x 8.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    images_NCHW = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(1)
    labels_N = torch.from_numpy(bunch.target.astype(np.int64))
    train_N, test_N = stratified_split(labels_N.numpy(), TEST_FRACTION)
    return ImageData(
        images_NCHW[train_N],
        labels_N[train_N],
        images_NCHW[test_N],
        labels_N[test_N],
        tuple(str(digit) for digit in range(10)),
    )
