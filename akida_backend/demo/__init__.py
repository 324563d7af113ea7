# SPDX-License-Identifier: Apache-2.0
"""The embedded default: a small INT8 network and test images it never saw in training."""

from __future__ import annotations

import io
from importlib import resources

import numpy as np
from numpy.typing import NDArray

MODEL_NAME = "digits (embedded)"


def model_bytes() -> bytes:
    """The TFLite file that tools/make_demo.py wrote."""
    return (resources.files(__name__) / "model.tflite").read_bytes()


def samples() -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Test images as the model's own int8 codes, (N, 8, 8, 1), and their digits, (N,)."""
    content = (resources.files(__name__) / "images.npz").read_bytes()
    with np.load(io.BytesIO(content)) as arrays:
        return arrays["x"].astype(np.int8), arrays["y"].astype(np.int64)
