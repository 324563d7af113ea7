# SPDX-License-Identifier: Apache-2.0
"""The command ``akida-backend``.

Exit codes: 0 all asked for holds, 1 it ran but a threshold or the fallback policy failed, 2 bad
input or usage, 130 interrupted. Results go to standard output, messages to standard error.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

from akida_backend.errors import AkidaBackendError, FallbackError

HOLDS = 0
FAILED = 1
REFUSED = 2
INTERRUPTED = 130

LAST_STREAM = 2  # number of standard error


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing but SystemExit of argparse escapes."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _open_streams()
    try:
        from akida_backend.cli.arguments import parse
        from akida_backend.cli.output import quantizer_shown

        parsed = parse(given)
        with quantizer_shown():
            return int(parsed.command(parsed))
    except FallbackError as error:
        return _say(str(error), FAILED)
    except AkidaBackendError as error:
        return _say(str(error), REFUSED)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except MemoryError:
        return _say("out of memory: use fewer samples (--limit)", REFUSED)
    except Exception as error:
        return _say(_defect(error), REFUSED)


def _open_streams() -> None:
    """Where the shell closed a stream, nobody reads it; a file must not get its number."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= LAST_STREAM:
        pass
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: PTH123, SIM115


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"akida-backend: {message}\n")
    return code


def _defect(error: Exception) -> str:
    if os.environ.get("AKIDA_BACKEND_TRACEBACK"):
        return "internal error\n" + "".join(traceback.format_exception(error))
    place = traceback.extract_tb(error.__traceback__)[-1]
    return (
        f"internal error: {type(error).__name__}: {error} ({place.name}, "
        f"{os.path.basename(place.filename)}:{place.lineno})\n"  # noqa: PTH119
        "  This is a defect of akida-backend. Please report it with the command and the model;\n"
        "  with AKIDA_BACKEND_TRACEBACK=1 set, the command prints the details to attach."
    )
