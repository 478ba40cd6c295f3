"""Code that runs without being traced for coverage, because the trace would double minutes and shows nothing new."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def untraced() -> Iterator[None]:
    """No trace function inside; the one from before goes on afterwards.

    Where coverage uses `sys.monitoring` (Python 3.12 and newer) there is none, and nothing changes.
    """
    trace = sys.gettrace()
    sys.settrace(None)
    try:
        yield
    finally:
        sys.settrace(trace)
