# SPDX-License-Identifier: Apache-2.0
"""What happens in a forked process, for code that a test runs in an interpreter of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable

SECONDS = 30


def in_child(action: Callable[[], object], *, ends: bool = True) -> object:
    """What a fork of this process ends with: its exit code, or "hangs" after half a minute.

    Args:
        action: What it does.
        ends: Whether the child's interpreter ends as usual, rather than the process at once.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer interpreters: this process has threads
        child = os.fork()
    if child == 0:
        action()
        if ends:
            sys.exit(0)
        os._exit(0)
    limit = time.monotonic() + SECONDS
    while time.monotonic() < limit:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "hangs"
