"""One log file in, its points out: nccl-tests output (text or JSON), published tables, PyTorch traces.

What a log says of its environment (variables, host names, process ids, user paths) is dropped on reading.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from validate.calibrate.logs.nccl_tests import nccl_json, nccl_text
from validate.calibrate.logs.reading import Reading, read_text, refusal
from validate.calibrate.logs.tables import (
    COLLECTIVE_COLUMNS,
    PRODUCT_COLUMNS,
    collective_table,
    columns_of,
    product_table,
)
from validate.calibrate.logs.traces import trace

READERS: dict[str, Callable[[str, Path], Reading]] = {
    "nccl-tests text": nccl_text,
    "nccl-tests JSON": nccl_json,
    "a table of collectives": collective_table,
    "a table of products": product_table,
    "a PyTorch trace": trace,
}


def read_log(path: Path) -> Reading:
    """The points in one file, by what it turns out to hold. Raises InputError, with reasons, where it holds none."""
    text = read_text(path)
    kind = kind_of(text)
    if kind is None:
        raise refusal(
            path,
            "is neither nccl-tests output (text or -J JSON), nor a PyTorch profiler trace, nor a table with the "
            "published columns",
        )
    reading = READERS[kind](text, path)
    if not reading.points:
        reasons = reading.reasons or "it is empty"
        raise refusal(path, f"looks like {kind}, but holds no measurement that can be used: {reasons}")
    return reading


def kind_of(text: str) -> str | None:
    """Which of READERS a text is for; None where it is none of them."""
    if text.lstrip()[:1] == "{":
        if '"traceEvents"' in text:
            return "a PyTorch trace"
        return "nccl-tests JSON" if '"results"' in text else None
    columns = columns_of(text)
    if columns >= COLLECTIVE_COLUMNS:
        return "a table of collectives"
    if columns >= PRODUCT_COLUMNS:
        return "a table of products"
    if "algbw" in text and "busbw" in text and "#" in text:
        return "nccl-tests text"
    return None
