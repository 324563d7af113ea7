# SPDX-License-Identifier: Apache-2.0
"""What tests of program bytes share: places of records, comparison, seals put right again."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
import zlib

import numpy as np

TENSORS = 160
TENSOR_SIZE = 32
LAYER_SIZE = 176


def plain(value: object) -> object:
    """Dataclasses, arrays and mappings as nested tuples that compare equal by content."""
    match value:
        case np.ndarray():
            return str(value.dtype), value.shape, value.tolist()
        case dict():
            return sorted((key, plain(item)) for key, item in value.items())
        case tuple():
            return tuple(plain(item) for item in value)
        case _ if dataclasses.is_dataclass(value):
            fields = dataclasses.fields(value)
            return type(value), tuple(plain(getattr(value, f.name)) for f in fields)
        case _:
            return value


def with_another_hash(data: bytes) -> bytes:
    """`data` with a content hash that is not its own, and the checksum put right."""
    covered = data[16:32] + bytes([data[32] ^ 1]) + data[33:]
    return data[:12] + struct.pack("<I", zlib.crc32(covered)) + covered


def sealed(data: bytes) -> bytes:
    """`data` with size, content hash and checksum put right, as a hostile writer would."""
    body = data[64:]
    covered = struct.pack("<Q8x", len(data)) + hashlib.sha256(body).digest()
    return data[:12] + struct.pack("<I", zlib.crc32(body, zlib.crc32(covered))) + covered + body
