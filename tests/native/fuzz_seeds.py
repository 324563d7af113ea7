# SPDX-License-Identifier: Apache-2.0
"""Writes programs for the fuzzer to begin with: ``python fuzz_seeds.py FOLDER [COUNT]``.

Small ones, each with an option that no earlier one has; `make fuzz` calls this.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from akida1_strategies import akida1_options_of, seeded_akida1_program
from program_strategies import options_of, seeded_program

from akida_backend.program_format import program_to_bytes


def small_programs(count: int) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of random programs that add an option to those before."""
    known: set[str] = set()
    for seed in range(count):
        akida2 = seeded_program(seed, max_layers=3)
        akida1 = seeded_akida1_program(seed, max_layers=3)
        for program, found in ((akida2, options_of(akida2)), (akida1, akida1_options_of(akida1))):
            if not found <= known:
                known |= found
                yield f"{seed}-{program.device}", program_to_bytes(program)


def main() -> None:
    folder = Path(sys.argv[1])
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 400
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in small_programs(count):
        (folder / f"seed-{name}").write_bytes(data)


if __name__ == "__main__":
    main()
