# SPDX-License-Identifier: Apache-2.0
"""ONNX Resize and Upsample, where the Graph's forms pick the same cells."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from akida_backend.graph import (
    ResizeBilinear,
    ResizeNearest,
    Size2D,
)
from akida_backend.importers.onnx_units import Unit
from akida_backend.importers.onnx_values import (
    NotModelledError,
    Value,
)
from akida_backend.importers.onnx_weighted import (
    image_shape,
)


def resize(unit: Unit) -> None:
    """Resize: the Graph's nearest and bilinear forms, where they pick the same cells."""
    x = unit.operand(0)
    if x.rank != 4:
        raise NotModelledError(f"{unit.kind} of {x.rank} axes is not modelled")
    size, _ = image_shape(unit)
    if unit.node.flag("antialias") or unit.node.text("keep_aspect_ratio_policy", "stretch") != (
        "stretch"
    ):
        raise NotModelledError("Resize with antialias or a fixed aspect ratio is not modelled")
    if unit.node.integers("axes") not in (None, tuple(range(x.rank))):
        raise NotModelledError("Resize of chosen axes is not modelled")
    scales, target = _resize_scales(unit, x)
    mode = unit.node.text("mode", "nearest")
    newer = unit.node.opset >= 11
    transformation = unit.node.text(
        "coordinate_transformation_mode", "half_pixel" if newer else "asymmetric"
    )
    if not newer:
        transformation = "asymmetric"
    rounding = unit.node.text("nearest_mode", "round_prefer_floor") if newer else "floor"
    if mode == "nearest":
        forms = _nearest_forms(transformation, rounding, scales, size, target)
    elif mode == "linear":
        unit.coded(0)
        forms = _linear_forms(transformation, scales, size, target)
    else:
        raise NotModelledError(f"Resize in mode '{mode}' is not modelled")
    if not forms:
        raise NotModelledError(
            f"Resize of {size} to {target} by the rule '{transformation}', '{rounding}' "
            "is not modelled"
        )
    align_corners, half_pixel_centers = forms[0]
    source = unit.image()
    kind = ResizeNearest if mode == "nearest" else ResizeBilinear
    unit.write(
        lambda output, _: kind(
            location=unit.location,
            sources=unit.sources(),
            input=source,
            output=output,
            size=target,
            align_corners=align_corners,
            half_pixel_centers=half_pixel_centers,
        ),
        unit.image_layout,
    )


def _resize_scales(unit: Unit, x: Value) -> tuple[tuple[float, float], Size2D]:
    """Factors of height and width, and the new size."""
    newer = unit.node.opset >= 11 and unit.kind == "Resize"
    at = 2 if newer else 1
    sizes = unit.integers(3, "sizes", batch_first=True) if newer and unit.has(3) else ()
    if sizes:
        if len(sizes) != 4 or min(sizes) < 1:
            raise unit.error("input", f"sizes {list(sizes)}")
        lengths: tuple[int, ...] = sizes
        scales = [new / old for new, old in zip(sizes, x.shape, strict=True)]
    else:
        if not unit.has(at):
            raise unit.error("input", "neither sizes nor scales are given")
        scales = [float(v) for v in unit.reals(at, "scales").reshape(-1)]
        if len(scales) != 4 or not all(0 < scale < 2**15 for scale in scales):
            raise unit.error("input", f"scales {scales}")
        lengths = tuple(math.floor(old * scale) for old, scale in zip(x.shape, scales, strict=True))
    order = unit.image_layout
    batch, height, width, channels = (lengths[axis] for axis in order)
    old_batch, _, _, old_channels = (x.shape[axis] for axis in order)
    if (batch, channels) != (old_batch, old_channels):
        raise NotModelledError("Resize of batch or channels is not modelled")
    if min(height, width) < 1:
        raise unit.error("input", f"an image of {height}x{width}")
    return (scales[order[1]], scales[order[2]]), Size2D(height, width)


_Forms = list[tuple[bool, bool]]
_FORMS: Final[_Forms] = [(False, False), (False, True), (True, False)]


def _nearest_forms(
    transformation: str, rounding: str, scales: tuple[float, float], size: Size2D, target: Size2D
) -> _Forms:
    """The Graph's forms (align_corners, half_pixel_centers) that pick the same cells."""
    axes = ((size.height, target.height, scales[0]), (size.width, target.width, scales[1]))
    found = []
    for form in _FORMS:
        same = True
        for length, new, scale in axes:
            wanted = _picked(transformation, rounding, length, new, scale)
            same = (
                same
                and wanted is not None
                and np.array_equal(wanted, _graph_picks(form, length, new))
            )
        if same:
            found.append(form)
    return found


def _positions(
    transformation: str, length: int, new: int, scale: float
) -> NDArray[np.float64] | None:
    """Where in the old axis each cell of the new one lies."""
    cells = np.arange(new, dtype=np.float64)
    match transformation:
        case "asymmetric":
            return cells / scale
        case "half_pixel":
            return (cells + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (cells + 0.5) / scale - 0.5 if new > 1 else np.zeros(1)
        case "align_corners":
            return cells * (length - 1) / (new - 1) if new > 1 else np.zeros(1)
        case "tf_half_pixel_for_nn":
            return (cells + 0.5) / scale
        case _:
            return None


def _picked(
    transformation: str, rounding: str, length: int, new: int, scale: float
) -> NDArray[np.int64] | None:
    positions = _positions(transformation, length, new, scale)
    if positions is None:
        return None
    # A position that is a whole number but for the rounding of the division counts as one.
    whole = np.rint(2 * positions) / 2
    positions = np.where(np.abs(positions - whole) < 1e-6, whole, positions)
    match rounding:
        case "floor":
            picks = np.floor(positions)
        case "ceil":
            picks = np.ceil(positions)
        case "round_prefer_floor":
            picks = np.ceil(positions - 0.5)
        case "round_prefer_ceil":
            picks = np.floor(positions + 0.5)
        case _:
            return None
    return np.clip(picks, 0, length - 1).astype(np.int64)


def _graph_picks(form: tuple[bool, bool], length: int, new: int) -> NDArray[np.int64]:
    """Cells the Graph's ResizeNearest picks."""
    align_corners, half_pixel_centers = form
    scale = (length - 1) / (new - 1) if align_corners and new > 1 else length / new
    positions = (np.arange(new) + (0.5 if half_pixel_centers else 0.0)) * scale
    positions = np.where(
        np.abs(positions - np.rint(positions)) < 1e-6, np.rint(positions), positions
    )
    cells = np.floor(positions + 0.5) if align_corners else np.floor(positions)
    picks: NDArray[np.int64] = np.clip(cells, 0, length - 1).astype(np.int64)
    return picks


def _linear_forms(
    transformation: str, scales: tuple[float, float], size: Size2D, target: Size2D
) -> _Forms:
    ratios = (target.height / size.height, target.width / size.width)
    if not np.allclose(scales, ratios, rtol=1e-6, atol=0.0) and transformation != "align_corners":
        return []
    if transformation == "pytorch_half_pixel" and 1 in (target.height, target.width):
        return []
    by_name = {
        "asymmetric": (False, False),
        "half_pixel": (False, True),
        "pytorch_half_pixel": (False, True),
        "align_corners": (True, False),
    }
    return [by_name[transformation]] if transformation in by_name else []
