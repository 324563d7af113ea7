# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import dataclasses

import networks
import numpy as np
import pytest

import akida_backend as ab
from akida_backend.graph import AnyArray, Graph
from akida_backend.importers.tflite_file import read_file
from akida_backend.plan import DeviceSegment, HostSegment, Plan
from akida_backend.reference import run_operations
from akida_backend.tflite_segments import Claim, claims
from akida_backend.tflite_writer import write_tflite


def claimed(graph: Graph) -> tuple[Plan, tuple[Claim, ...]]:
    content = write_tflite(graph)
    plan = ab.compile(content)
    found, unclaimed = claims(plan, read_file(content, "m"))
    assert unclaimed == ()
    return plan, found


def test_claims_are_the_segments_in_terms_of_the_file() -> None:
    plan, found = claimed(networks.interrupted())
    file = read_file(plan.graph.source, "m")
    assert [claim.operators for claim in found] == [(0,), (2,)]
    names = [(file.tensors[c.input].tensor.name, file.tensors[c.output].tensor.name) for c in found]
    programs = [claim.segment.program for claim in found]
    assert names == [(p.input.tensor, p.output.tensor) for p in programs]
    assert all(claim.picks is None for claim in found)


def test_picks_do_what_the_hosts_half_does() -> None:
    plan, (claim,) = claimed(networks.strided_stem())
    assert claim.picks is not None
    program = claim.segment.program
    halves = [
        op
        for s in plan.segments
        if isinstance(s, HostSegment)
        for op in s.operations
        if op.sources == (0,)
    ]
    assert halves
    (source,) = plan.graph.inputs
    for seed in range(3):
        x = np.random.default_rng(seed).integers(-128, 128, (1, 24, 10, 1)).astype(np.int8)
        values: dict[str, AnyArray] = {source: x}
        run_operations(halves, plan.legalised, values)
        flat = x.ravel()
        picked = [
            int(flat[p]) if p >= 0 else int(np.uint8(-1 - p).view(np.int8)) for p in claim.picks
        ]
        assert np.array_equal(picked, values[program.input.tensor].ravel())


def test_an_operator_in_two_segments_is_claimed_by_neither() -> None:
    content = write_tflite(networks.interrupted())
    plan = ab.compile(content)
    segments = tuple(
        dataclasses.replace(s, sources=(0, 2)) if isinstance(s, DeviceSegment) else s
        for s in plan.segments
    )
    found, unclaimed = claims(dataclasses.replace(plan, segments=segments), read_file(content, "m"))
    assert found == ()
    assert [u.reason for u in unclaimed] == ["one of its operators became part of two segments"] * 2


@pytest.mark.parametrize("end", ["input", "output"])
def test_an_end_that_is_no_tensor_of_the_model_is_not_claimed(end: str) -> None:
    content = write_tflite(networks.interrupted())
    plan = ab.compile(content)

    def moved(segment: DeviceSegment) -> DeviceSegment:
        port = dataclasses.replace(getattr(segment.program, end), tensor="made up")
        program = dataclasses.replace(segment.program, **{end: port})
        return dataclasses.replace(segment, program=program)

    segments = tuple(moved(s) if isinstance(s, DeviceSegment) else s for s in plan.segments)
    found, unclaimed = claims(dataclasses.replace(plan, segments=segments), read_file(content, "m"))
    assert found == ()
    assert unclaimed[0].reason == f"its {end} 'made up' is no tensor of the model"
