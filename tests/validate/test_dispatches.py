"""Operations that PyTorch dispatches for a layer, counted in real modules."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from simulator.cost.launches import dispatches
from validate.dispatches import dispatched

# Kernels that the cost model lists for one GPT layer on one tensor rank with unfused attention.
FORWARD_KERNELS, BACKWARD_KERNELS = 14, 27


def test_ratios_of_the_data_file_are_those_of_the_layer() -> None:
    counted, eager = dispatched(recompute=False), dispatches()["eager"]
    assert eager["forward"] == pytest.approx(counted.forward / FORWARD_KERNELS, rel=0.02)
    assert eager["backward"] == pytest.approx(counted.backward / BACKWARD_KERNELS, rel=0.02)


def test_recomputation_dispatches_the_forward_once_more() -> None:
    plain, recomputed = dispatched(recompute=False), dispatched(recompute=True)
    assert recomputed.backward - plain.backward == pytest.approx(plain.forward, abs=5)
