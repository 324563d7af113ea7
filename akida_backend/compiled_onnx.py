# SPDX-License-Identifier: Apache-2.0
"""Write a compiled ONNX model: device segments become EPContext nodes, all else stays as it was.

onnxruntime 1.23 and newer run it with the provider of `akida_backend.onnxruntime.library_path`,
from any language and without Python. Without the provider they refuse it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import onnx
from onnx import helper
from onnx.external_data_helper import load_external_data_for_tensor

from akida_backend.epcontext import DOMAIN, PROVIDER, tool
from akida_backend.errors import InputError
from akida_backend.onnx_claims import Claim, Unclaimable, claims_of, reads
from akida_backend.plan import Plan

SUFFIX: Final = ".onnx"
NEWEST_IR_VERSION: Final = 10  # that onnxruntime 1.23 loads


def compiled_onnx(plan: Plan) -> bytes:
    """The model of a plan, with its device segments compiled.

    Raises:
        InputError: The plan is not of an ONNX model, has no device segment or one that no nodes
            of the file stand for, or runs in source arithmetic.
    """
    graph = plan.graph
    if graph.format != "onnx":
        raise InputError(
            f"{graph.name}: was read as {graph.format}, so it cannot be saved as {SUFFIX}\n"
            f"  save it as .{graph.format} or as .akp"
        )
    if not graph.source:
        raise InputError(
            f"{graph.name}: a plan that was read from a file does not hold the model's own nodes\n"
            "  compile the model itself"
        )
    if plan.options.emulation != "device":
        raise InputError(
            f"{graph.name}: a compiled model always runs in the device's arithmetic\n"
            f"  leave emulation='{plan.options.emulation}' out"
        )
    model = onnx.ModelProto.FromString(graph.source)
    claims = [_claimed(plan, claim) for claim in claims_of(plan, model.graph)]
    if not claims:
        raise InputError(
            f"{graph.name}: nothing of it runs on {plan.device.name}\n"
            "  `akida-backend inspect` gives the reasons"
        )
    _replace_nodes(model.graph, claims)
    _drop_unused(model.graph)
    _include_data(model.graph, Path(graph.name).parent, graph.name)
    if all(opset.domain != DOMAIN for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    model.ir_version = min(model.ir_version, NEWEST_IR_VERSION)
    for key, value in (
        ("tool", tool()),
        ("device", plan.device.name),
        ("source_sha256", graph.sha256),
    ):
        model.metadata_props.append(
            onnx.StringStringEntryProto(key=f"{PROVIDER}.{key}", value=value)
        )
    return bytes(model.SerializeToString(deterministic=True))


def _claimed(plan: Plan, claim: Claim | Unclaimable) -> Claim:
    if isinstance(claim, Claim):
        return claim
    names = ", ".join(claim.operations(plan))
    raise InputError(
        f"{plan.graph.name}: a device segment is no part of the file: {claim.reason}\n"
        f"  keep it on the host with deny='{names}', or save the plan as .akp"
    )


def _replace_nodes(graph: onnx.GraphProto, claims: Sequence[Claim]) -> None:
    contexts = {
        claim.nodes[-1]: claim.compiled.node(f"akida_{number}")
        for number, claim in enumerate(claims)
    }
    gone = {index for claim in claims for index in claim.nodes}
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(graph.node):
        if index in contexts:
            nodes.append(contexts[index])
        elif index not in gone:
            nodes.append(node)
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)
    described = {value.name for value in (*graph.value_info, *graph.output)}
    for claim in claims:
        output = claim.compiled.output
        if output.value not in described:
            kind = claim.compiled.output_type()
            graph.value_info.append(helper.make_tensor_value_info(output.value, kind, output.shape))


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove what no output needs any more."""
    wanted = {value.name for value in graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            nodes.append(node)
            wanted.update(reads(node))
    nodes.reverse()
    constants = {tensor.name for tensor in graph.initializer}
    written = wanted.union(*(node.output for node in nodes))
    _keep(graph.node, nodes)
    _keep(graph.initializer, [each for each in graph.initializer if each.name in wanted])
    _keep(
        graph.input,
        [each for each in graph.input if each.name in wanted or each.name not in constants],
    )
    _keep(graph.value_info, [each for each in graph.value_info if each.name in written])
    _keep(
        graph.quantization_annotation,
        [each for each in graph.quantization_annotation if each.tensor_name in written],
    )


def _keep(field: object, entries: Iterable[object]) -> None:
    kept = [type(entry).FromString(entry.SerializeToString()) for entry in entries]  # type: ignore[attr-defined]
    del field[:]  # type: ignore[attr-defined]
    field.extend(kept)  # type: ignore[attr-defined]


def _include_data(graph: onnx.GraphProto, folder: Path, name: str) -> None:
    """Put data of other files into this one, which may lie elsewhere."""
    for tensor in graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        try:
            load_external_data_for_tensor(tensor, str(folder))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise InputError(
                f"{name}: the data of '{tensor.name}' cannot be read: {error}\n"
                "  load the model by its path"
            ) from error
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
