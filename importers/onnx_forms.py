# SPDX-License-Identifier: Apache-2.0
"""Which tensors of an imported Graph hold which values of its file, and in what order of axes.

Only those need it who put parts of a compiled Graph back into the file or its runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from akida_backend.graph import Graph, Reshape
from akida_backend.importers.onnx_values import Builder, Layout


@dataclass(frozen=True, slots=True)
class FileForm:
    """A value of the file as a tensor holds it.

    Attributes:
        value: Name in the file.
        layout: Axis k of the tensor is axis ``layout[k]`` of the value.
    """

    value: str
    layout: Layout


_FORMS: WeakKeyDictionary[Graph, Mapping[str, tuple[FileForm, ...]]] = WeakKeyDictionary()


def keep_file_forms(graph: Graph, builder: Builder) -> None:
    """Remember what the importer knows, as long as the graph lives."""
    renamed = {
        op.input: op.output
        for op in builder.operations
        if isinstance(op, Reshape)
        and op.input not in graph.tensors
        and op.output in graph.tensors
        and builder.shape_of(op.input) == builder.shape_of(op.output)
    }
    forms: dict[str, tuple[FileForm, ...]] = {}
    for value in builder.values.values():
        if value.data is not None or value.shuffled is not None:
            continue
        for layout, made in value.forms.items():
            tensor = renamed.get(made, made)
            form = FileForm(value.name, layout)
            if tensor in graph.tensors and form not in forms.get(tensor, ()):
                forms[tensor] = (*forms.get(tensor, ()), form)
    _FORMS[graph] = forms


def file_forms(graph: Graph) -> Mapping[str, tuple[FileForm, ...]]:
    """Values of the file by tensor, in the file's order; none for a graph of no ONNX file."""
    return _FORMS.get(graph, {})
