# SPDX-License-Identifier: Apache-2.0
"""Load damaged copies of model files and report whatever is not a clean refusal.

    python tools/fuzz_import.py model.tflite --count 10000 --seed 1

Each copy is truncated, has bytes or bits changed, or has 32-bit words set to values that break
careless readers. Loading has to give a Graph without problems or an ImportModelError, in time.
Exit code 1 if it does not; the offending copies are kept in --keep.
"""

from __future__ import annotations

import argparse
import collections
import random
import struct
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path

from akida_backend.errors import ImportModelError
from akida_backend.loading import load

WORDS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)


def damaged(content: bytes, seed: int, count: int) -> Iterator[bytes]:
    """`count` damaged copies of a file, the same for the same seed."""
    choose = random.Random(seed)
    for _ in range(count):
        copy = bytearray(content)
        kind = choose.choices(("bits", "bytes", "words", "cut"), (5, 3, 4, 1))[0]
        if kind == "cut":
            yield bytes(copy[: choose.randrange(len(copy))])
            continue
        for _ in range(choose.choice((1, 1, 1, 2, 4, 8))):
            place = choose.randrange(len(copy))
            match kind:
                case "bits":
                    copy[place] ^= 1 << choose.randrange(8)
                case "bytes":
                    copy[place] = choose.randrange(256)
                case _:
                    place = min(place & ~3, len(copy) - 4)
                    struct.pack_into("<I", copy, place, choose.choice(WORDS))
        yield bytes(copy)


def outcome(content: bytes) -> str:
    """What loading gives: "loaded", "refused", or a description of what went wrong."""
    try:
        graph = load(content)
    except ImportModelError:
        return "refused"
    except Exception:
        return traceback.format_exc()
    return "; ".join(graph.problems()) or "loaded"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--count", type=int, default=1000, help="damaged copies per model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0, help="longest time for one copy")
    parser.add_argument("--megabytes", type=int, help="address space this process may take")
    parser.add_argument("--keep", type=Path, help="folder for copies that went wrong")
    options = parser.parse_args()
    if options.megabytes is not None:
        import resource

        limit = options.megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    warnings.simplefilter("error")
    tally: collections.Counter[str] = collections.Counter()
    slowest = 0.0
    for model in options.models:
        content = model.read_bytes()
        for number, copy in enumerate(damaged(content, options.seed, options.count)):
            start = time.monotonic()
            result = outcome(copy)
            elapsed = time.monotonic() - start
            slowest = max(slowest, elapsed)
            if elapsed > options.seconds:
                result = f"took {elapsed:.1f} s"
            if result not in ("loaded", "refused"):
                print(f"{model}, seed {options.seed}, copy {number}: {result}")
                if options.keep is not None:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    (options.keep / f"{model.stem}-{options.seed}-{number}.bin").write_bytes(copy)
                result = "wrong"
            tally[result] += 1
    print(", ".join(f"{count} {what}" for what, count in sorted(tally.items())))
    print(f"slowest {slowest:.3f} s")
    return 1 if tally["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
