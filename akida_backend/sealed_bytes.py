# SPDX-License-Identifier: Apache-2.0
"""The header that every file of this package begins with: kind, version, checksum, content hash.

Little-endian, 64 bytes:

      0  8 bytes   magic, tells the kind of file
      8  uint32    format version, counted per kind
     12  uint32    CRC-32 (zlib) of every byte from 16 on
     16  uint64    size of the file, below 2**31
     24  8 bytes   zero
     32  32 bytes  SHA-256 of every byte from 64 on: the content hash
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from typing import Final

from akida_backend.errors import ProgramError

ALIGNMENT: Final = 64  # of arrays, counted from the first byte of the file
MAX_BYTES: Final = 2**31 - 1

_HEADER: Final = struct.Struct("<8sIIQ8x32s")
_CHECKED_FROM: Final = 16  # what the CRC covers

HEADER_BYTES: Final = _HEADER.size
PROGRAM_MAGIC: Final = b"\x89AKP\r\n\x1a\n"
PLAN_MAGIC: Final = b"\x89AKL\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class SealedBytes:
    """One kind of file.

    Attributes:
        what: What messages call it, such as ``program bytes``.
        kind: What it is, such as ``program``.
        magic: The first 8 bytes.
        version: The format version this package writes and reads.
    """

    what: str
    kind: str
    magic: bytes
    version: int

    def seal(self, body: bytes | bytearray, label: str) -> bytes:
        """Header and body.

        Raises:
            ProgramError: `label` takes 2 GiB or more.
        """
        size = HEADER_BYTES + len(body)
        if size > MAX_BYTES:
            raise ProgramError(f"{label} takes {size} bytes, at most {MAX_BYTES} fit")
        digest = hashlib.sha256(body).digest()
        header = _HEADER.pack(self.magic, self.version, 0, size, digest)
        checksum = zlib.crc32(body, zlib.crc32(header[_CHECKED_FROM:]))
        return _HEADER.pack(self.magic, self.version, checksum, size, digest) + body

    def digest(self, data: bytes) -> bytes:
        """The content hash, once size, checksum and the hash itself are found to hold.

        Raises:
            ProgramError: The bytes are damaged, of another version, or of another kind.
        """
        if not data.startswith(self.magic):
            raise self.damaged(f"the first bytes are not those of an akida-backend {self.kind}")
        if len(data) < HEADER_BYTES:
            raise self.damaged(f"{len(data)} bytes, the header alone takes {HEADER_BYTES}")
        _, version, checksum, size, digest = _HEADER.unpack_from(data)
        if version > self.version:
            raise ProgramError(
                f"{self.what}: format version {version}, this akida-backend reads {self.version}"
                "\n  Install a newer akida-backend, or compile the model with this one."
            )
        if version < self.version:
            raise self.damaged(f"format version {version} does not exist")
        if size != len(data):
            raise self.damaged(f"{len(data)} bytes, the header says {size}")
        view = memoryview(data)
        if zlib.crc32(view[_CHECKED_FROM:]) != checksum:
            raise self.damaged("the checksum does not match")
        if hashlib.sha256(view[HEADER_BYTES:]).digest() != digest:
            raise self.damaged("the content hash does not match")
        return bytes(digest)

    def damaged(self, problem: str) -> ProgramError:
        """The error for bytes that cannot be what they claim to be."""
        return ProgramError(f"{self.what}: {problem}\n  Compile the model again.")
