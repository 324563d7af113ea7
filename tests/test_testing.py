# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import networks
import numpy as np
import pytest

import akida_backend as ab
from akida_backend.onnx_writer import Interface, OnnxForm, write_onnx
from akida_backend.testing import assert_matches
from akida_backend.tflite_writer import write_tflite

MODEL = write_tflite(networks.classifier())
IMAGES = next(iter(networks.codes(networks.classifier(), 24).values()))


def test_results_near_enough_pass() -> None:
    assert_matches(MODEL, IMAGES, device="akida2", min_agreement=0.5, min_sqnr_db=5)


def test_source_emulation_is_identical_and_passes_any_threshold() -> None:
    assert_matches(MODEL, IMAGES, emulation="source", min_agreement=1.0, min_sqnr_db=1000)


def test_results_too_far_fail_and_say_where() -> None:
    with pytest.raises(AssertionError, match=r"model: akida2, output .*, 24 samples: SQNR .* 200"):
        assert_matches(MODEL, IMAGES, min_sqnr_db=200)


def test_an_accuracy_that_drops_fails() -> None:
    labels = np.arange(24) % 6
    data = {"x": IMAGES, "y": labels}
    with pytest.raises(AssertionError, match=r"accuracy drops by .* points, wanted at most -101"):
        assert_matches(MODEL, data, max_accuracy_drop=-101)


def test_a_threshold_on_no_figure_is_the_callers_mistake() -> None:
    with pytest.raises(ab.InputError, match="max_accuracy_drop: there is no such figure"):
        assert_matches(MODEL, IMAGES, max_accuracy_drop=1)
    with pytest.raises(ab.InputError, match="needs a threshold"):
        assert_matches(MODEL, IMAGES)


@pytest.mark.parametrize("form", list(OnnxForm), ids=lambda form: form.value)
def test_onnx_models_are_compared_too(form: OnnxForm) -> None:
    """As the file takes its images, channels first."""
    model = write_onnx(networks.classifier(), form, interface=Interface.CHANNELS_FIRST)
    images = IMAGES.transpose(0, 3, 1, 2)
    assert_matches(model, images, device="akida2", min_agreement=0.5, min_sqnr_db=5)
    with pytest.raises(AssertionError, match=r"model: akida2, output .*, 24 samples: SQNR .* 200"):
        assert_matches(model, images, min_sqnr_db=200)
    with pytest.raises(ab.InputError, match="3, 8, 8"):
        assert_matches(model, IMAGES, min_sqnr_db=5)


def test_a_share_of_the_macs_may_be_wanted_on_the_device() -> None:
    assert_matches(MODEL, IMAGES, min_mac_fraction=1.0)
    with pytest.raises(
        AssertionError, match=r"akida2: 0\.0000 of the MACs on the device, wanted 1"
    ):
        assert_matches(MODEL, IMAGES, allow="type:SOFTMAX", min_agreement=1.0, min_mac_fraction=1.0)
