# SPDX-License-Identifier: Apache-2.0
"""Errors a user can act on: each message says where, what was found, and what to do."""

from __future__ import annotations


class AkidaBackendError(Exception):
    """Base of every error this package raises on purpose."""


class ImportModelError(AkidaBackendError):
    """A model file is damaged, hostile, or of a kind no importer represents.

    Args:
        where: File, and where it is known the subgraph, operator or tensor, and field.
        problem: The value found and why it cannot stand.
        remedy: What the reader can do, one sentence.
    """

    def __init__(self, where: str, problem: str, *, remedy: str) -> None:
        super().__init__(f"{where}: {problem}\n  {remedy}")
        self.where = where
        self.problem = problem
        self.remedy = remedy


class InputError(AkidaBackendError):
    """Data, a path or an option given by the caller does not fit."""


class UnsupportedOperationError(AkidaBackendError):
    """An opaque operation has to be executed and no installed runtime can do it."""


class FallbackError(AkidaBackendError):
    """``fallback="error"`` or ``"strict"`` and an operation stays on the host."""


class ProgramError(AkidaBackendError):
    """A device program is malformed, of another version, or for another device."""


class EngineError(AkidaBackendError):
    """The native engine is missing, or cannot do what it was asked for."""
