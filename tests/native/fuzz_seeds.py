# SPDX-License-Identifier: Apache-2.0
"""Writes programs for the fuzzer to begin with: ``python fuzz_seeds.py FOLDER [COUNT]``.

Small ones, each with an option that no earlier one has; `make fuzz` calls this.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from program_strategies import options_of, seeded_program

from akida_backend.program_format import program_to_bytes


def small_programs(count: int) -> Iterator[tuple[int, bytes]]:
    """Seed and bytes of random programs that add an option to those before."""
    known: set[str] = set()
    for seed in range(count):
        program = seeded_program(seed, max_layers=3)
        found = options_of(program)
        if not found <= known:
            known |= found
            yield seed, program_to_bytes(program)


def main() -> None:
    folder = Path(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 400
    folder.mkdir(parents=True, exist_ok=True)
    for seed, data in small_programs(count):
        (folder / f"seed-{seed}").write_bytes(data)


if __name__ == "__main__":
    main()
