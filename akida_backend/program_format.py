# SPDX-License-Identifier: Apache-2.0
"""A Program as bytes: deterministic, versioned, checksummed, readable from C without parsing.

Everything is little-endian. `Ref` is two uint32: offset from the first byte of the file and
number of elements (bytes of a text); an absent array is (0, 0). Arrays begin at multiples of
64 bytes, texts (UTF-8) anywhere; all lie behind the records, in the order they are named here,
with zero bytes between. Unused fields are zero. Equal programs give equal bytes, and a reader
may refuse any other arrangement.

    Header, 64 bytes, as `akida_backend.sealed_bytes` describes it
      0  8 bytes   magic 89 'A' 'K' 'P' 0D 0A 1A 0A
      8  uint32    format version, 1
     12  uint32    CRC-32 (zlib) of every byte from 16 on
     16  uint64    size of the file, below 2**31
     24  8 bytes   zero
     32  32 bytes  SHA-256 of every byte from 64 on: the content hash

    Program, 96 bytes at 64
     64  Ref       name                          text
     72  Ref       device                        text
     80  uint32    number of layers L
     84  uint32    zero
     88  Ref       input: host tensor            text
     96  Ref       input: host shape             int32 each, -1 for the symbolic batch
    104  uint32    input: host type              1 int8, 2 uint8, 3 int16, 4 uint16, 5 int32
    108  uint32    zero
    112  Ref       input: recode                 int16 x 256 x parts
    120  Ref       output: host tensor           text
    128  Ref       output: host shape            int32 each
    136  uint32    output: host type             as above
    140  int32     output: zero point
    144  int32     output: low
    148  int32     output: high
    152  Ref       output: factor                float64, 1 or one per channel

    Tensor, 32 bytes each, L + 1 of them from 160 on. Tensor 0 is the program's input, layer k
    writes tensor k + 1, the last one is the program's output.
      0  Ref       name                          text
      8  uint32    height
     12  uint32    width
     16  uint32    channels
     20  uint8     bits, 1, 2, 4, 8 or 32
     21  uint8     signed, 0 or 1
     22  uint8     zero point
     23  uint8     parts: 1, or 2 in an input whose host values take two codes
     24  Ref       scale                         float64, 1 or one per channel

    Layer, 176 bytes each, L of them behind the tensors
      0  uint32    kind: 1 InputConv2D, 2 Conv2D, 3 DepthwiseConv2D, 4 Conv2DTranspose,
                   5 DepthwiseConv2DTranspose, 6 Dense1D, 7 Add, 8 Concatenate;
                   of Akida 1.0: 9 InputConvolutional, 10 Convolutional,
                   11 SeparableConvolutional, 12 FullyConnected
      4  uint32    tensor read, at most the layer's own number
      8  uint32    second tensor read by Add and Concatenate; 2**32 - 1 for the others
     12  uint8     weights bits, 4 or 8; of Akida 1.0 from 1 to 8
     13  uint8     output bits, 4, 8 or 32; of Akida 1.0 1, 2, 4 or 32
     14  uint8     activation: 0 none, 1 ReLU, 2 bounded ReLU, 3 look-up table, 4 steps
     15  uint8     padding of InputConv2D and InputConvolutional: 0 Same, 1 Valid
     16  uint8     global average, 0 or 1
     17  uint8     pool: 0 none, 1 Same, 2 Valid
     18  2 bytes   zero
     20  uint32 x 2  stride: height, width
     28  uint32 x 2  pool size
     36  uint32 x 2  pool stride
     44  uint32 x 4  axes of the weights: OHWI; depthwise 1HWC, so of SeparableConvolutional;
                   Dense1D and FullyConnected O, 1, 1, I
     60  int32     a shift
     64  int32     b shift
     68  int32     output shift of Add
     72  Ref       name                          text
     80  Ref       weights                       int8
     88  Ref       bias value                    int8 per filter
     96  Ref       bias shift                    uint8 per filter
    104  Ref       multiplier                    uint8 per filter
    112  Ref       shift                         int8 per filter
    120  Ref       bound of ReLU                 uint8 per filter
    128  Ref       shift of the bound            uint8 per filter
    136  Ref       multiplier to the table       uint8 per filter
    144  Ref       shift to the table            int8 per filter
    152  Ref       table                         int16 x 2048
    160  Ref       input shift                   uint8 per input channel
    168  Ref       padding value                 uint8 per input channel

    The kinds of Akida 1.0 have other arrays in these places, the rest is absent:
     88  Ref       threshold                     int32 per filter
     96  Ref       step                          uint32 per filter
    104  Ref       step shift                    uint8 per filter
    112  Ref       pointwise weights             int8, filters x channels
    168  Ref       padding value                 uint8, one

    Then texts and arrays: those of the program record, of every tensor, of every layer.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from akida_backend.errors import ProgramError
from akida_backend.graph import AnyArray, DType, Shape, Size2D
from akida_backend.program import (
    Add,
    Akida1Layer,
    Bias,
    Code,
    Concatenate,
    Conv2D,
    Conv2DTranspose,
    Convolutional,
    Dense1D,
    DepthwiseConv2D,
    DepthwiseConv2DTranspose,
    DeviceTensor,
    FullyConnected,
    InputConv2D,
    InputConvolutional,
    InputPort,
    LayerActivation,
    LookUpTable,
    MacLayer,
    MaxPool,
    NoActivation,
    OutputPort,
    Padding,
    Program,
    ProgramLayer,
    ReLU,
    Rescale,
    SeparableConvolutional,
    StepActivation,
)
from akida_backend.program_check import check_program, has_global_average, padding_of, pool_of
from akida_backend.sealed_bytes import ALIGNMENT, HEADER_BYTES, PROGRAM_MAGIC, SealedBytes

FORMAT_VERSION: Final = 1

_SEAL: Final = SealedBytes("program bytes", "program", PROGRAM_MAGIC, FORMAT_VERSION)
_PROGRAM: Final = struct.Struct("<4I I4x 4I I4x 2I 4I I3i 2I")
_TENSOR: Final = struct.Struct("<2I 3I 4B 2I")
_LAYER: Final = struct.Struct("<3I 6B2x 2I 2I 2I 4I 3i 26I")

_NO_TENSOR: Final = 2**32 - 1
_KINDS: Final[tuple[type[ProgramLayer] | None, ...]] = (
    None,
    InputConv2D,
    Conv2D,
    DepthwiseConv2D,
    Conv2DTranspose,
    DepthwiseConv2DTranspose,
    Dense1D,
    Add,
    Concatenate,
    InputConvolutional,
    Convolutional,
    SeparableConvolutional,
    FullyConnected,
)
_DTYPES: Final = (None, DType.INT8, DType.UINT8, DType.INT16, DType.UINT16, DType.INT32)
_PADDINGS: Final = (Padding.SAME, Padding.VALID)
_ABSENT: Final = (0, 0)
_NONE: Final = Size2D(0, 0)

Ref = tuple[int, int]  # offset, number of elements
T = TypeVar("T")
ScalarT = TypeVar("ScalarT", bound=np.generic)


def content_hash(data: bytes) -> str:
    """The SHA-256 that a program's bytes carry, hexadecimal; equal programs have equal ones.

    Raises:
        ProgramError: The bytes are damaged, of another version, or not a program's.
    """
    return _SEAL.digest(data).hex()


# Writing


def program_to_bytes(program: Program) -> bytes:
    """The bytes of a program: equal for equal programs, in every process.

    Raises:
        ProgramError: The program is not well-formed, or takes 2 GiB or more.
    """
    check_program(program)
    order = [program.input.device, *(layer.output for layer in program.layers)]
    numbers = {name: number for number, name in enumerate(order)}
    heap = _Heap(_records_end(len(program.layers)))
    body = bytearray(_program_record(program, heap))
    for name in order:
        body += _tensor_record(program.tensors[name], heap)
    for layer in program.layers:
        body += _layer_record(layer, numbers, heap)
    body += heap.data
    return _SEAL.seal(body, f"program '{program.name}'")


def _records_end(layers: int) -> int:
    return HEADER_BYTES + _PROGRAM.size + (layers + 1) * _TENSOR.size + layers * _LAYER.size


@dataclass
class _Heap:
    """Texts and arrays behind the records, which end at `base`."""

    base: int
    data: bytearray = field(default_factory=bytearray)

    def text(self, text: str) -> Ref:
        # surrogatepass: a name that is not valid Unicode in its model file stays what it is.
        return self._append(text.encode("utf-8", "surrogatepass"), 1)

    def array(self, array: AnyArray | None) -> Ref:
        if array is None:
            return _ABSENT
        self.data += bytes(-(self.base + len(self.data)) % ALIGNMENT)
        little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
        return self._append(little_endian.tobytes(), array.itemsize)

    def _append(self, data: bytes, item_size: int) -> Ref:
        if not data:
            return _ABSENT
        offset = self.base + len(self.data)
        self.data += data
        return offset, len(data) // item_size


def _program_record(program: Program, heap: _Heap) -> bytes:
    source, sink = program.input, program.output
    return _PROGRAM.pack(
        *heap.text(program.name),
        *heap.text(program.device),
        len(program.layers),
        *heap.text(source.tensor),
        *heap.array(_stored_shape(source.shape)),
        _DTYPES.index(source.dtype),
        *heap.array(source.recode),
        *heap.text(sink.tensor),
        *heap.array(_stored_shape(sink.shape)),
        _DTYPES.index(sink.dtype),
        sink.zero_point,
        sink.low,
        sink.high,
        *heap.array(sink.factor),
    )


def _stored_shape(shape: Shape) -> NDArray[np.int32]:
    return np.array([-1 if side is None else side for side in shape], np.int32)


def _tensor_record(tensor: DeviceTensor, heap: _Heap) -> bytes:
    code = tensor.code
    return _TENSOR.pack(
        *heap.text(tensor.name),
        *tensor.shape,
        code.bits,
        code.signed,
        code.zero_point,
        code.parts,
        *heap.array(np.array(code.scale, np.float64)),
    )


def _layer_record(layer: ProgramLayer, numbers: Mapping[str, int], heap: _Heap) -> bytes:
    name = heap.text(layer.name)
    first, second, *_ = (*(numbers[tensor] for tensor in layer.inputs), _NO_TENSOR)
    weights_bits = output_bits = 0
    padding = Padding.SAME
    axes: tuple[int, ...] = (0, 0, 0, 0)
    shifts = (0, 0, 0)
    stride = _NONE
    pool: MaxPool | None = None
    activation: LayerActivation | StepActivation = NoActivation()
    average = False
    input_shift = padding_value = None
    parameters: list[AnyArray | None] = [None] * 5
    match layer:
        case Concatenate():
            pass
        case Add():
            output_bits, activation = layer.output_bits, layer.activation
            shifts = layer.a_shift, layer.b_shift, layer.output_shift
        case _:
            weights_bits, output_bits = layer.weights_bits, layer.output_bits
            activation, pool = layer.activation, pool_of(layer)
            average, padding = has_global_average(layer), padding_of(layer)
            axes = layer.weights.shape
            parameters = _own_arrays(layer)
    if not isinstance(
        layer,
        Add | Concatenate | Dense1D | FullyConnected | Conv2DTranspose | DepthwiseConv2DTranspose,
    ):
        stride = layer.stride
    if isinstance(layer, Conv2D | Dense1D):
        input_shift = layer.input_shift
    if isinstance(layer, InputConv2D):
        padding_value = layer.padding_value
    if isinstance(layer, InputConvolutional):
        padding_value = np.array([layer.padding_value], np.uint8)
    if isinstance(layer, Dense1D | FullyConnected):
        filters, inputs = axes
        axes = (filters, 1, 1, inputs)
    kind, activation_arrays = _activation_fields(activation)
    size, step = (_NONE, _NONE) if pool is None else (pool.size, pool.stride)
    arrays = [*parameters, *activation_arrays, input_shift, padding_value]
    return _LAYER.pack(
        _KINDS.index(type(layer)),
        first,
        second,
        weights_bits,
        output_bits,
        kind,
        _PADDINGS.index(padding),
        average,
        0 if pool is None else 1 + _PADDINGS.index(pool.padding),
        *(side for pair in (stride, size, step) for side in (pair.height, pair.width)),
        *axes,
        *shifts,
        *name,
        *(number for array in arrays for number in heap.array(array)),
    )


def _own_arrays(layer: MacLayer) -> list[AnyArray | None]:
    """The weights and the four arrays behind them."""
    if not isinstance(layer, Akida1Layer):
        bias, rescale = layer.bias, layer.rescale
        return [layer.weights, bias.value, bias.shift, rescale.multiplier, rescale.shift]
    pointwise = layer.pointwise_weights if isinstance(layer, SeparableConvolutional) else None
    match layer.activation:
        case NoActivation():
            return [layer.weights, layer.threshold, None, None, pointwise]
        case StepActivation(step, step_shift):
            return [layer.weights, layer.threshold, step, step_shift, pointwise]


def _activation_fields(
    activation: LayerActivation | StepActivation,
) -> tuple[int, Sequence[AnyArray | None]]:
    """Code of an activation and its five arrays."""
    match activation:
        case NoActivation():
            return 0, [None] * 5
        case StepActivation():
            return 4, [None] * 5
        case ReLU():
            bounded = activation.max_value is not None
            arrays = [activation.max_value, activation.max_value_shift, None, None, None]
            return 2 if bounded else 1, arrays
        case LookUpTable():
            rescale = activation.rescale
            return 3, [None, None, rescale.multiplier, rescale.shift, activation.table]


# Reading


def program_from_bytes(data: bytes) -> Program:
    """The program that `program_to_bytes` wrote; its arrays are views of `data`.

    Raises:
        ProgramError: The bytes are damaged, of another version, or not a program's.
    """
    _SEAL.digest(data)
    program = _read_program(data)
    # The reader does not look at unused fields; a program has one form only.
    if program_to_bytes(program) != data:
        raise _damaged("a field or gap that must be zero is not")
    return program


def _damaged(problem: str) -> ProgramError:
    return _SEAL.damaged(problem)


@dataclass
class _Cursor:
    """Takes texts and arrays in the one order and the places they can have.

    So no two overlap, and what is built from them stays in proportion to the file.

    Attributes:
        data: The whole file.
        end: Of what has been taken.
    """

    data: bytes
    end: int

    def text(self, where: str, ref: Ref) -> str:
        if ref == _ABSENT:
            return ""
        try:
            return str(self._take(where, ref, 1, 1), "utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise _damaged(f"{where} is not UTF-8") from error

    def array(self, where: str, ref: Ref, dtype: type[ScalarT]) -> NDArray[ScalarT]:
        stored = np.dtype(dtype).newbyteorder("<")
        raw = self._take(where, ref, ALIGNMENT, stored.itemsize)
        return np.frombuffer(raw, stored).astype(dtype, copy=False)

    def optional(self, where: str, ref: Ref, dtype: type[ScalarT]) -> NDArray[ScalarT] | None:
        return None if ref == _ABSENT else self.array(where, ref, dtype)

    def _take(self, where: str, ref: Ref, alignment: int, item_size: int) -> memoryview:
        offset, count = ref
        expected = self.end + -self.end % alignment
        if offset != expected or count == 0 or offset + count * item_size > len(self.data):
            raise _damaged(
                f"{where}: {count} elements at byte {offset}, where {expected} comes next and "
                f"{len(self.data)} ends the file"
            )
        self.end = offset + count * item_size
        return memoryview(self.data)[offset : self.end]


class _Fields:
    """The numbers of one record, taken in the order of its table."""

    def __init__(self, record: struct.Struct, data: bytes, offset: int) -> None:
        self._values: Iterator[int] = iter(record.unpack_from(data, offset))

    def number(self) -> int:
        return next(self._values)

    def ref(self) -> Ref:
        return self.number(), self.number()

    def size(self) -> Size2D:
        return Size2D(self.number(), self.number())

    def choice(self, where: str, values: Sequence[T | None]) -> T:
        number = self.number()
        value = values[number] if number < len(values) else None
        if value is None:
            raise _damaged(f"{where}: {number} stands for nothing")
        return value


def _read_program(data: bytes) -> Program:
    if len(data) < _records_end(0):
        raise _damaged("the program record is cut off")
    record = _Fields(_PROGRAM, data, HEADER_BYTES)
    name, device, count = record.ref(), record.ref(), record.number()
    if _records_end(count) > len(data):
        raise _damaged(f"{count} layers do not fit into {len(data)} bytes")
    cursor = _Cursor(data, _records_end(count))
    program_name, device_name = cursor.text("name", name), cursor.text("device", device)
    source = InputPort(
        tensor=cursor.text("input tensor", record.ref()),
        shape=_shape(cursor.array("input shape", record.ref(), np.int32)),
        dtype=record.choice("input type", _DTYPES),
        device="",
        recode=cursor.array("input recode", record.ref(), np.int16),
    )
    sink = OutputPort(
        tensor=cursor.text("output tensor", record.ref()),
        shape=_shape(cursor.array("output shape", record.ref(), np.int32)),
        dtype=record.choice("output type", _DTYPES),
        device="",
        zero_point=record.number(),
        low=record.number(),
        high=record.number(),
        factor=cursor.array("output factor", record.ref(), np.float64),
    )
    at = HEADER_BYTES + _PROGRAM.size
    tensors = tuple(
        _read_tensor(f"tensor {k}", _Fields(_TENSOR, data, at + k * _TENSOR.size), cursor)
        for k in range(count + 1)
    )
    names = tuple(tensor.name for tensor in tensors)
    at += len(tensors) * _TENSOR.size
    layers = tuple(
        _read_layer(k, _Fields(_LAYER, data, at + k * _LAYER.size), cursor, names)
        for k in range(count)
    )
    if cursor.end != len(data):
        raise _damaged(f"{len(data) - cursor.end} bytes follow the last array")
    return Program(
        name=program_name,
        device=device_name,
        tensors={tensor.name: tensor for tensor in tensors},
        layers=layers,
        input=replace(source, device=names[0]),
        output=replace(sink, device=names[-1]),
    )


def _shape(stored: NDArray[np.int32]) -> Shape:
    return tuple(None if side == -1 else side for side in stored.tolist())


def _read_tensor(where: str, record: _Fields, cursor: _Cursor) -> DeviceTensor:
    return DeviceTensor(
        name=cursor.text(f"{where}, name", record.ref()),
        shape=(record.number(), record.number(), record.number()),
        code=Code(
            bits=record.number(),
            signed=bool(record.number()),
            zero_point=record.number(),
            parts=record.number(),
            scale=tuple(cursor.array(f"{where}, scale", record.ref(), np.float64).tolist()),
        ),
    )


class _Shared(TypedDict):
    name: str
    inputs: tuple[str, ...]
    output: str


class _Common(_Shared):
    weights: NDArray[np.int8]
    weights_bits: int
    bias: Bias
    activation: LayerActivation
    rescale: Rescale
    output_bits: int


class _Akida1Common(_Shared):
    weights: NDArray[np.int8]
    weights_bits: int
    threshold: NDArray[np.int32]
    activation: StepActivation | NoActivation
    output_bits: int


def _read_layer(
    number: int, record: _Fields, cursor: _Cursor, names: tuple[str, ...]
) -> ProgramLayer:
    where = f"layer {number}"
    kind = record.choice(f"{where}, kind", _KINDS)
    first, second = record.number(), record.number()
    if first > number or (second > number and second != _NO_TENSOR):
        raise _damaged(f"{where} reads tensors {first} and {second} before they are written")
    weights_bits, output_bits = record.number(), record.number()
    activation_kind = record.number()
    padding = record.choice(f"{where}, padding", _PADDINGS)
    average = bool(record.number())
    pool_kind = record.number()
    stride = record.size()
    pool = _read_pool(where, pool_kind, record.size(), record.size())
    axes = tuple(record.number() for _ in range(4))
    a_shift, b_shift, output_shift = (record.number() for _ in range(3))
    shared = _Shared(
        name=cursor.text(f"{where}, name", record.ref()),
        inputs=(names[first],) if second == _NO_TENSOR else (names[first], names[second]),
        output=names[number + 1],
    )
    if kind is Concatenate:
        return Concatenate(**shared)
    own = [record.ref() for _ in range(5)]
    of_activation = [record.ref() for _ in range(5)]
    if kind is Add:
        activation = _read_activation(where, activation_kind, of_activation, cursor)
        if isinstance(activation, LookUpTable):
            raise _damaged(f"{where}: Add has no look-up table")
        return Add(
            **shared,
            a_shift=a_shift,
            b_shift=b_shift,
            output_shift=output_shift,
            activation=activation,
            output_bits=output_bits,
        )
    weights = cursor.array(f"{where}, weights", own[0], np.int8)
    if weights.size != math.prod(axes):
        raise _damaged(f"{where}: {weights.size} weights for axes {axes}")
    weights = weights.reshape((axes[0], -1) if kind in (Dense1D, FullyConnected) else axes)
    if kind is not None and issubclass(kind, Akida1Layer):
        common1 = _Akida1Common(
            **shared,
            weights=weights,
            weights_bits=weights_bits,
            threshold=cursor.array(f"{where}, threshold", own[1], np.int32),
            activation=_read_steps(where, activation_kind, own[2], own[3], cursor),
            output_bits=output_bits,
        )
        if kind is FullyConnected:
            return FullyConnected(**common1)
        if kind is Convolutional:
            return Convolutional(**common1, stride=stride, pool=pool, global_average=average)
        if kind is SeparableConvolutional:
            pointwise = cursor.array(f"{where}, pointwise weights", own[4], np.int8)
            if len(pointwise) % axes[3]:
                raise _damaged(f"{where}: {len(pointwise)} pointwise weights for axes {axes}")
            return SeparableConvolutional(
                **common1,
                pointwise_weights=pointwise.reshape(-1, axes[3]),
                stride=stride,
                pool=pool,
                global_average=average,
            )
        record.ref()
        value = cursor.array(f"{where}, padding value", record.ref(), np.uint8)
        return InputConvolutional(
            **common1, stride=stride, padding=padding, padding_value=int(value[0]), pool=pool
        )
    common = _Common(
        **shared,
        weights=weights,
        weights_bits=weights_bits,
        bias=Bias(
            cursor.array(f"{where}, bias value", own[1], np.int8),
            cursor.array(f"{where}, bias shift", own[2], np.uint8),
        ),
        rescale=Rescale(
            cursor.array(f"{where}, multiplier", own[3], np.uint8),
            cursor.array(f"{where}, shift", own[4], np.int8),
        ),
        activation=_read_activation(where, activation_kind, of_activation, cursor),
        output_bits=output_bits,
    )
    input_shift = cursor.optional(f"{where}, input shift", record.ref(), np.uint8)
    if kind is InputConv2D:
        value = cursor.array(f"{where}, padding value", record.ref(), np.uint8)
        return InputConv2D(**common, stride=stride, padding=padding, padding_value=value, pool=pool)
    if kind is Conv2D:
        return Conv2D(
            **common, stride=stride, pool=pool, global_average=average, input_shift=input_shift
        )
    if kind is DepthwiseConv2D:
        return DepthwiseConv2D(**common, stride=stride, pool=pool, global_average=average)
    if kind is Dense1D:
        return Dense1D(**common, input_shift=input_shift)
    if kind is Conv2DTranspose:
        return Conv2DTranspose(**common)
    return DepthwiseConv2DTranspose(**common)


def _read_steps(
    where: str, kind: int, step: Ref, shift: Ref, cursor: _Cursor
) -> StepActivation | NoActivation:
    match kind:
        case 0:
            return NoActivation()
        case 4:
            return StepActivation(
                cursor.array(f"{where}, step", step, np.uint32),
                cursor.array(f"{where}, step shift", shift, np.uint8),
            )
        case _:
            raise _damaged(f"{where}, activation: {kind} is none of Akida 1.0")


def _read_pool(where: str, kind: int, size: Size2D, stride: Size2D) -> MaxPool | None:
    if kind > len(_PADDINGS):
        raise _damaged(f"{where}, pool: {kind} stands for nothing")
    return MaxPool(size, stride, _PADDINGS[kind - 1]) if kind else None


def _read_activation(
    where: str, kind: int, refs: Sequence[Ref], cursor: _Cursor
) -> LayerActivation:
    bound, bound_shift, multiplier, shift, table = refs
    match kind:
        case 0:
            return NoActivation()
        case 1:
            return ReLU()
        case 2:
            return ReLU(
                cursor.array(f"{where}, bound", bound, np.uint8),
                cursor.array(f"{where}, shift of the bound", bound_shift, np.uint8),
            )
        case 3:
            return LookUpTable(
                Rescale(
                    cursor.array(f"{where}, multiplier to the table", multiplier, np.uint8),
                    cursor.array(f"{where}, shift to the table", shift, np.int8),
                ),
                cursor.array(f"{where}, table", table, np.int16),
            )
        case _:
            raise _damaged(f"{where}, activation: {kind} stands for nothing")
