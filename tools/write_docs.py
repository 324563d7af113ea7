# SPDX-License-Identifier: Apache-2.0
"""Write the generated pages (`make docs`), or check that they are up to date."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from akida_backend.support_table import supported_operations_page
from akida_backend.writing import write_text

ROOT = Path(__file__).resolve().parents[1]


def pages() -> dict[Path, str]:
    """Text of every generated page by its path in the project."""
    return {Path("SUPPORTED_OPS.md"): supported_operations_page()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 on a difference")
    given = parser.parse_args(arguments)
    stale = 0
    for path, text in pages().items():
        file = ROOT / path
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        if before == text:
            continue
        if not given.check:
            write_text(file, text)
            print(f"{path} written")
            continue
        stale = 1
        lines = difflib.unified_diff(
            before.splitlines(), text.splitlines(), str(path), "generated", lineterm="", n=0
        )
        print("\n".join(list(lines)[:20]))
        print(f"{path} is out of date: run `make docs`", file=sys.stderr)
    return stale


if __name__ == "__main__":
    sys.exit(main())
