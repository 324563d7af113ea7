# SPDX-License-Identifier: Apache-2.0
"""Whether other threads of Python run while one is inside a call."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def turns_during(call: Callable[[], object]) -> int:
    """How often this thread had a turn while another was inside the call.

    A call that keeps the interpreter lock leaves at most one, at its very beginning.
    """
    times: list[float] = []
    span: list[float] = []
    done = threading.Event()

    def work() -> None:
        span.append(time.monotonic())
        try:
            call()
        finally:
            span.append(time.monotonic())
            done.set()

    worker = threading.Thread(target=work)
    worker.start()
    while not done.is_set():
        times.append(time.monotonic())
        time.sleep(0.001)
    worker.join()
    begin, end = span
    return sum(begin < each < end for each in times)
