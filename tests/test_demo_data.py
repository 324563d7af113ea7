# SPDX-License-Identifier: Apache-2.0
"""The embedded network and images: what the package ships is what the demo promises."""

from __future__ import annotations

from importlib import resources

import numpy as np
import pytest
import tflite
from numpy.typing import NDArray

from akida_backend import demo


def operator_names() -> list[str]:
    names = {
        code: name for name, code in vars(tflite.BuiltinOperator).items() if isinstance(code, int)
    }
    model = tflite.Model.GetRootAs(demo.model_bytes())
    graph = model.Subgraphs(0)
    operators = [graph.Operators(i) for i in range(graph.OperatorsLength())]
    return [names[model.OperatorCodes(op.OpcodeIndex()).BuiltinCode()] for op in operators]


def test_package_data_stays_below_100_kilobytes() -> None:
    folder = resources.files(demo.__name__)
    sizes = [len((folder / name).read_bytes()) for name in ("model.tflite", "images.npz")]
    assert sum(sizes) < 100_000


def test_network_has_the_operators_the_demo_is_to_show() -> None:
    assert operator_names() == [
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "CONV_2D",
        "MAX_POOL_2D",
        "CONV_2D",
        "CONV_2D",
        "ADD",
        "CONV_2D",
        "AVERAGE_POOL_2D",
        "RESHAPE",
        "FULLY_CONNECTED",
        "SOFTMAX",
    ]


def test_input_is_asymmetric_and_images_are_its_codes() -> None:
    x, y = demo.samples()
    graph = tflite.Model.GetRootAs(demo.model_bytes()).Subgraphs(0)
    image = graph.Tensors(graph.Inputs(0))
    assert image.Quantization().ZeroPointAsNumpy().tolist() == [-50]
    assert image.ShapeSignatureAsNumpy().tolist() == [-1, 8, 8, 1]
    assert x.shape == (450, 8, 8, 1)
    assert y.shape == (450,)
    assert np.bincount(y).tolist() == [45, 46, 44, 46, 45, 46, 45, 45, 43, 45]


def pixels(codes: NDArray[np.int8]) -> NDArray[np.int64]:
    """The 17 grey levels again: black and white are the smallest and the largest code."""
    low, high = int(codes.min()), int(codes.max())
    return np.rint(16 * (codes.astype(np.int64) - low) / (high - low)).astype(np.int64)


def test_images_are_digits_of_the_data_set_with_their_labels() -> None:
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    known = {
        (image.astype(np.int64).tobytes(), int(label))
        for image, label in zip(digits.images, digits.target, strict=True)
    }
    x, y = demo.samples()
    shown = [(image.tobytes(), int(label)) for image, label in zip(pixels(x), y, strict=True)]
    assert len(set(shown)) == len(shown)
    assert set(shown) <= known


def test_litert_reference_kernels_reach_the_documented_accuracy() -> None:
    module = pytest.importorskip("ai_edge_litert.interpreter")
    interpreter = module.Interpreter(
        model_content=demo.model_bytes(),
        experimental_op_resolver_type=module.OpResolverType.BUILTIN_REF,
    )
    x, y = demo.samples()
    (image,), (probabilities,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.resize_tensor_input(image["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(image["index"], x)
    interpreter.invoke()
    predicted = interpreter.get_tensor(probabilities["index"]).argmax(axis=1)
    assert int((predicted == y).sum()) == 447  # as many as the float network: 99.33 %
