# SPDX-License-Identifier: Apache-2.0
"""Linear algebra of the quantizer, and that a compiled model does not depend on numpy's BLAS."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import NDArray

from akida_backend.calibration import FEWEST_SAMPLES
from akida_backend.four_bit import weights
from akida_backend.four_bit.products import BLOCK, rounded_product, solved, triangle
from akida_backend.graph import Activation, Graph
from akida_backend.tflite_writer import write_tflite
from builders import GraphBuilder, random_inputs

Reals = NDArray[np.float64]

SETTINGS: Final = (
    {"OPENBLAS_NUM_THREADS": "1"},
    {"OPENBLAS_NUM_THREADS": "2"},
    {"OPENBLAS_CORETYPE": "Haswell"},
    {"OPENBLAS_CORETYPE": "Sandybridge"},
)
SCRIPT: Final = """
import hashlib, sys
import numpy as np
from akida_backend.compiler import compile
from akida_backend.plan_format import content_hash, plan_to_bytes
model, data = sys.argv[1:]
x = np.load(data)["x"][:64]
a = np.random.default_rng(0).normal(size=(400, 400))
print(hashlib.sha256(a @ a).hexdigest())
print(content_hash(plan_to_bytes(compile(model, "akd1000", calibration=x))))
"""


def covariances(stack: int, size: int) -> Reals:
    """Of positive integers that vary together, damped."""
    rng = np.random.default_rng(size)
    x = np.rint(np.abs(rng.normal(0, 5, (stack, size, 300))) + rng.normal(0, 9, (stack, 1, 300)))
    return np.stack([np.cov(each) for each in x]) + np.eye(size)


def test_products_do_not_depend_on_the_order_of_their_sums() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, (2, 7, 1000)), rng.normal(0, 1e-6, (2, 1000, 5))
    a[:, 3] *= 1e9
    found = rounded_product(a, b)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(1000)
        np.testing.assert_array_equal(rounded_product(a[:, :, order], b[:, order]), found)
    largest = np.abs(a).max(axis=2)[:, :, None] * np.abs(b).max(axis=1)[:, None]
    assert (np.abs(found - a @ b) < 1000 * 2.0**-20 * largest).all()


def test_products_of_integers_are_exact() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(-(2**13), 2**13, (1, 3, 600)), rng.integers(-128, 128, (1, 600, 4))
    found = rounded_product(a.astype(np.float64), b.astype(np.float64))
    wanted = a.astype(object) @ b.astype(object)
    assert (found.astype(object) == wanted).all()


@pytest.mark.parametrize(("stack", "size"), [(5, 9), (1, 1), (2, BLOCK), (1, 2 * BLOCK + 1)])
def test_triangle_and_solution_are_those_of_the_matrix(stack: int, size: int) -> None:
    matrices = covariances(stack, size).reshape(stack, size, size)
    right = np.random.default_rng(3).normal(0, 1, (stack, size, 6))
    lower = triangle(matrices)
    assert (np.triu(lower, 1) == 0).all()
    squared = lower.transpose(0, 2, 1) @ lower
    np.testing.assert_allclose(squared, matrices, rtol=0, atol=1e-12 * matrices.max())
    wanted = np.linalg.solve(matrices, right)
    np.testing.assert_allclose(solved(lower, right), wanted, rtol=0, atol=1e-5)


def test_small_systems_are_solved_as_fractions_are() -> None:
    lower = triangle(np.array([[[5.0, 2.0], [2.0, 3.0]]]))
    x, y = solved(lower, np.array([[[1.0], [4.0]]])).ravel()
    # Cramer
    assert float(x) == pytest.approx(float(Fraction(1 * 3 - 2 * 4, 5 * 3 - 2 * 2)), rel=1e-14)
    assert float(y) == pytest.approx(float(Fraction(5 * 4 - 2 * 1, 5 * 3 - 2 * 2)), rel=1e-14)


@pytest.mark.parametrize(("stack", "size"), [(4, 9), (1, BLOCK + 7)])
def test_adaptive_rounding_is_that_of_the_inverse(stack: int, size: int) -> None:
    """As GPTQ is published: each error spread by the rows of the inverse's factor."""
    covariance = covariances(stack, size)
    target = np.random.default_rng(4).normal(0, 1, (stack, 3, size))
    scale = np.full((stack, 3), 0.3)
    found = weights._adaptively_rounded(target, scale, covariance, 7)
    damping = weights.DAMPING * np.trace(covariance, axis1=1, axis2=2) / size
    for each, real, extra, chosen in zip(covariance, target, damping, found, strict=True):
        order = np.argsort(-np.diagonal(each), kind="stable")
        damped = (each + extra * np.eye(size))[np.ix_(order, order)]
        upper = np.linalg.cholesky(np.linalg.inv(damped)).T
        left = real[:, order]
        for k in range(size):
            code = np.clip(np.rint(left[:, k] / 0.3), -8, 7)
            np.testing.assert_array_equal(chosen[:, order[k]], code)
            left[:, k:] -= ((left[:, k] - code * 0.3) / upper[k, k])[:, None] * upper[k, k:]


def network() -> Graph:
    b = GraphBuilder(7)
    x = b.conv2d(b.input(12, 12, 3), 16, stride=2, activation=Activation.RELU)
    x = b.conv2d(x, 24, activation=Activation.RELU)
    return b.build(b.conv2d(x, 16, kernel=1))


def hashes(model: Path, data: Path) -> tuple[set[str], set[str]]:
    """Digests of a product of reals, and of the compiled model, over the settings."""
    lines = []
    for setting in SETTINGS:
        others = {k: v for k, v in os.environ.items() if not k.startswith("OPENBLAS_")}
        path = os.pathsep.join(filter(None, sys.path))
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(model), str(data)],
            env={**others, **setting, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        lines.append(result.stdout.split())
    products, models = zip(*lines, strict=True)
    return set(products), set(models)


def test_threads_and_kernels_of_the_blas_leave_the_compiled_model_the_same(tmp_path: Path) -> None:
    graph = network()
    (tmp_path / "model.tflite").write_bytes(write_tflite(graph))
    (x,) = random_inputs(graph, FEWEST_SAMPLES, seed=1).values()
    np.savez(tmp_path / "data.npz", x=x)
    products, models = hashes(tmp_path / "model.tflite", tmp_path / "data.npz")
    assert len(models) == 1
    if len(products) == 1:
        pytest.skip("numpy's BLAS does not follow OPENBLAS_CORETYPE and OPENBLAS_NUM_THREADS")


@pytest.mark.full
def test_keyword_spotting_is_the_same_for_every_blas(shared: Path) -> None:
    products, models = hashes(
        shared / "models/mlperf_tiny/mlperf_kws_ref_int8.tflite",
        shared / "data/kws01_mfcc_49x10_int8.npz",
    )
    assert len(models) == 1
    if len(products) == 1:
        pytest.skip("numpy's BLAS does not follow OPENBLAS_CORETYPE and OPENBLAS_NUM_THREADS")
