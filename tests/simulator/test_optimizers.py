"""Optimizers: bytes kept and moved per parameter, and the FLOPs of what is computed on whole matrices, by hand."""

from __future__ import annotations

import pytest

from hardware.precisions import PRECISIONS
from simulator.optimizers import OPTIMIZERS


@pytest.mark.parametrize(
    ("name", "state_bytes"), [("adamw", 12.0), ("lamb", 12.0), ("sgd", 8.0), ("muon", 8.0), ("adafactor", 4.0)]
)
def test_state_in_fp32(name: str, state_bytes: float) -> None:
    """A master copy of 4 bytes, and 4 for each moment."""
    assert OPTIMIZERS[name].state_bytes(main_bytes=4.0, moment_bytes=4.0) == state_bytes


def test_update_of_adam_moves_thirty_bytes() -> None:
    """4 of the gradient and 12 of the state read, 12 written, 2 of the new parameter written."""
    assert OPTIMIZERS["adamw"].update_bytes(gradient_bytes=4.0, state_bytes=12.0, parameter_bytes=2.0) == 30.0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_products_run_in_a_precision_and_want_whole_matrices(name: str) -> None:
    record = OPTIMIZERS[name]
    assert record.needs_whole_matrices == (record.products is not None)
    if record.products is not None:
        assert record.products.precision in PRECISIONS
        assert record.products.iterations >= 1


def test_newton_schulz_flops() -> None:
    """Five iterations of 2 (2 r^2 c) + 2 r^3 on a matrix of 3 x 5."""
    products = OPTIMIZERS["muon"].products
    assert products is not None
    flops = sum(2 * m * n * k for m, n, k in products.shapes(3, 5))
    assert products.iterations * flops == 5 * (2 * 2 * 9 * 5 + 2 * 27)
