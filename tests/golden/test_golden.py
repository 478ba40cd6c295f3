"""No prediction moves unless the golden file is renewed with it (see golden.py)."""

from __future__ import annotations

import pytest

from tests.golden.golden import cases, differences, read_golden

CHUNKS = 16


# A thousand whole predictions: what they run the rooms' own tests cover, and tracing them doubles minutes.
@pytest.mark.untraced
@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_predictions_are_those_of_the_golden_file(chunk: int) -> None:
    golden, now = read_golden(), cases()
    assert list(golden) == list(now), "cases came or went: renew the golden file"
    found = [
        f"{name}{difference}"
        for name, figures in list(now.items())[chunk::CHUNKS]
        for difference in differences(golden[name], figures())
    ]
    assert not found, "\n".join(found[:20])
