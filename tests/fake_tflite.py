# SPDX-License-Identifier: Apache-2.0
"""A TFLite runtime of our own making, to show a delegate what real ones do only on bad days.

It knows one custom operator ``akida-program`` per node, tensors of one batch, and no kernels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Final

FAILED: Final = ctypes.c_void_p(-1).value


_Init = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Registration(ctypes.Structure):
    """152 bytes, by value."""

    _fields_ = (
        (
            "init",
            ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t),
        ),
        ("free", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)),
        ("prepare", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)),
        ("invoke", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)),
        ("profiling_string", ctypes.c_void_p),
        ("builtin_code", ctypes.c_int32),
        ("custom_name", ctypes.c_char_p),
        ("version", ctypes.c_int),
        ("rest", ctypes.c_void_p * 11),
    )


class Tensor(ctypes.Structure):
    """112 bytes."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("data", ctypes.c_void_p),
        ("dims", ctypes.c_void_p),
        ("params", ctypes.c_int * 2),
        ("allocation_type", ctypes.c_int),
        ("bytes", ctypes.c_size_t),
        ("allocation", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("delegate", ctypes.c_void_p),
        ("buffer_handle", ctypes.c_int),
        ("flags", ctypes.c_bool * 2),
        ("quantization", ctypes.c_int),
        ("quantization_params", ctypes.c_void_p),
        ("sparsity", ctypes.c_void_p),
        ("dims_signature", ctypes.c_void_p),
    )


class Node(ctypes.Structure):
    """80 bytes."""

    _fields_ = (
        ("inputs", ctypes.c_void_p),
        ("outputs", ctypes.c_void_p),
        ("intermediates", ctypes.c_void_p),
        ("temporaries", ctypes.c_void_p),
        ("user_data", ctypes.c_void_p),
        ("builtin_data", ctypes.c_void_p),
        ("custom_data", ctypes.c_void_p),
        ("custom_size", ctypes.c_int),
        ("delegate", ctypes.c_void_p),
        ("side_effect", ctypes.c_bool),
    )


class Partition(ctypes.Structure):
    """32 bytes."""

    _fields_ = (
        ("delegate", ctypes.c_void_p),
        ("nodes", ctypes.c_void_p),
        ("inputs", ctypes.c_void_p),
        ("outputs", ctypes.c_void_p),
    )


_Context = ctypes.c_void_p
_GetPlan = ctypes.CFUNCTYPE(ctypes.c_int, _Context, ctypes.POINTER(ctypes.c_void_p))
_Resize = ctypes.CFUNCTYPE(ctypes.c_int, _Context, ctypes.c_void_p, ctypes.c_void_p)
_Report = ctypes.CFUNCTYPE(None, _Context, ctypes.c_char_p, ctypes.c_char_p)
_GetNode = ctypes.CFUNCTYPE(
    ctypes.c_int,
    _Context,
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_void_p),
)
_Replace = ctypes.CFUNCTYPE(ctypes.c_int, _Context, Registration, ctypes.c_void_p, ctypes.c_void_p)
_Preview = ctypes.CFUNCTYPE(
    ctypes.c_int,
    _Context,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.POINTER(ctypes.c_int),
)


class Context(ctypes.Structure):
    """The functions a delegate calls, at their places; every other one is null."""

    _fields_ = (
        ("tensors_size", ctypes.c_size_t),
        ("get_plan", _GetPlan),
        ("tensors", ctypes.c_void_p),
        ("implementation", ctypes.c_void_p),
        ("resize", _Resize),
        ("report", _Report),
        ("add_tensors", ctypes.c_void_p),
        ("get_node", _GetNode),
        ("replace", _Replace),
        ("threads", ctypes.c_int),
        ("unused", ctypes.c_void_p * 9),
        ("preview", _Preview),
        ("more", ctypes.c_void_p * 8),
    )


class Delegate(ctypes.Structure):
    """56 bytes."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("prepare", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)),
        ("unused", ctypes.c_void_p * 3),
        ("flags", ctypes.c_int64),
        ("opaque", ctypes.c_void_p),
    )


def int_array(values: Sequence[int]) -> Any:  # noqa: ANN401
    """``TfLiteIntArray``."""
    return (ctypes.c_int * (len(values) + 1))(len(values), *values)


class FakeRuntime:
    """A chain of programs, each an operator: tensor i -> node i -> tensor i + 1.

    Args:
        programs: Custom options of the nodes.
        shapes: Of the tensors, one more than nodes.
        groups: Nodes of each partition the runtime makes of what a delegate wants.
        tensor_type: The runtime's number, int8 by default.
    """

    def __init__(
        self,
        programs: Sequence[bytes],
        shapes: Sequence[Sequence[int]],
        groups: Sequence[Sequence[int]],
        tensor_type: int = 9,
    ) -> None:
        self.reports: list[str] = []
        self.kernels: list[int | None] = []
        self.registration: Registration | None = None
        self._kept: list[Any] = list(programs)
        self._groups = groups
        self.dims = [int_array(shape) for shape in shapes]
        count = len(programs)
        self.tensors = (Tensor * (count + 1))()
        for i in range(count + 1):
            self.tensors[i].type = tensor_type
            self.tensors[i].dims = ctypes.addressof(self.dims[i])
            self.tensors[i].name = f"t{i}".encode()
            self.tensors[i].allocation_type = 2
        self._plan = int_array(range(count))
        self._custom = Registration(builtin_code=32, custom_name=b"akida-program", version=1)
        self._nodes = [
            self._node([i], [i + 1], ctypes.create_string_buffer(data, len(data)))
            for i, data in enumerate(programs)
        ]
        self.context = Context(
            tensors_size=count + 1,
            get_plan=_GetPlan(self._get_plan),
            tensors=ctypes.addressof(self.tensors),
            resize=_Resize(lambda _context, _tensor, _dims: 1),
            report=_Report(lambda _context, _format, text: self.reports.append(text.decode())),
            get_node=_GetNode(self._get_node),
            replace=_Replace(self._replace),
            threads=-1,
            preview=_Preview(self._preview),
        )

    @property
    def text(self) -> str:
        """Everything reported."""
        return "".join(self.reports)

    def apply(self, delegate: int) -> int:
        """What ModifyGraphWithDelegate does."""
        prepare = Delegate.from_address(delegate).prepare
        status: int = prepare(ctypes.addressof(self.context), delegate)
        return status

    def kernel_node(self, user_data: int | None) -> Node:
        node = self._node([0], [len(self._nodes)], None)
        node.user_data = user_data
        return node

    def partition(self, nodes: Sequence[int]) -> Partition:
        arrays = [int_array(nodes), int_array([nodes[0]]), int_array([nodes[-1] + 1])]
        self._kept += arrays
        return Partition(None, *(ctypes.addressof(array) for array in arrays))

    def _node(self, inputs: Sequence[int], outputs: Sequence[int], data: Any) -> Node:  # noqa: ANN401
        arrays = [int_array(inputs), int_array(outputs)]
        self._kept += [*arrays, data]
        return Node(
            inputs=ctypes.addressof(arrays[0]),
            outputs=ctypes.addressof(arrays[1]),
            custom_data=None if data is None else ctypes.addressof(data),
            custom_size=0 if data is None else len(data),
        )

    def _get_plan(self, _context: int, plan: Any) -> int:  # noqa: ANN401
        plan[0] = ctypes.addressof(self._plan)
        return 0

    def _get_node(self, _context: int, index: int, node: Any, registration: Any) -> int:  # noqa: ANN401
        node[0] = ctypes.addressof(self._nodes[index])
        registration[0] = ctypes.addressof(self._custom)
        return 0

    def _preview(self, _context: int, wanted: int, partitions: Any, count: Any) -> int:  # noqa: ANN401
        nodes = _values(wanted)
        groups = [[n for n in group if n in nodes] for group in self._groups]
        made = [self.partition(group) for group in groups if group]
        array = (Partition * len(made))(*made)
        self._kept.append(array)
        partitions[0] = ctypes.addressof(array)
        count[0] = len(made)
        return 0

    def _replace(self, context: int, registration: Registration, wanted: int, _: int) -> int:
        # A copy: the structure lives only as long as the call.
        self.registration = Registration.from_buffer_copy(registration)
        nodes = _values(wanted)
        for group in self._groups:
            members = [n for n in group if n in nodes]
            if members:
                partition = self.partition(members)
                self._kept.append(partition)
                self.kernels.append(self.registration.init(context, ctypes.addressof(partition), 0))
        return 0


def _values(address: int) -> list[int]:
    count = ctypes.c_int.from_address(address).value
    return list((ctypes.c_int * (count + 1)).from_address(address))[1:]
