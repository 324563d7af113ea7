# SPDX-License-Identifier: Apache-2.0
"""One reader per file format: model file in, Graph out."""

from __future__ import annotations

if __name__ == "importers":
    raise ImportError(
        "the folder 'importers' is the package akida_backend.importers: "
        "write `import akida_backend.importers`, not `import importers`"
    )
