"""The optimizers that a plan may name: what each keeps for a parameter, computes in a step, and where it is offered.

One record each; a new optimizer is a record here. Sources: Adam (arXiv 1412.6980), LAMB (1904.00962), Adafactor
(1804.04235), Muon (Keller Jordan, 2024-12) with Moonshot's scaling (arXiv 2502.16982).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hardware.arrays import Number

# (m, n, k) of a product y[m, n] = x[m, k] w[k, n].
ProductShape = tuple[Number, Number, Number]


@dataclass(frozen=True, slots=True)
class MatrixProducts:
    """Products that a step computes on every weight matrix as a whole.

    `shapes(rows, columns)`, rows <= columns: those of one iteration on one matrix; `iterations` of them run in
    `precision`.
    """

    precision: str
    iterations: int
    shapes: Callable[[Number, Number], tuple[ProductShape, ...]]


@dataclass(frozen=True, slots=True)
class OptimizerRecord:
    """One optimizer.

    `moments`: numbers kept per parameter, in the plan's format of moments. `products`: what it computes on whole
    matrices beside its elementwise update (None: nothing).
    `in_megatron_core`: its distributed optimizer offers it; `precision_aware`: there with states below 32 bit, and
    with states in host memory.
    """

    name: str
    moments: int
    products: MatrixProducts | None = None
    in_megatron_core: bool = False
    precision_aware: bool = False

    @property
    def needs_whole_matrices(self) -> bool:
        """Whether matrices are dealt whole to the ranks of a shard group; shards of a flat buffer would cut them."""
        return self.products is not None

    def state_bytes(self, main_bytes: float, moment_bytes: float) -> float:
        """Bytes kept per parameter: the master copy (0 bytes: none) and the moments, of so many bytes each."""
        return main_bytes + self.moments * moment_bytes

    def update_bytes(self, gradient_bytes: float, state_bytes: float, parameter_bytes: float) -> float:
        """Bytes that the elementwise update of one parameter reads and writes: its gradient read, its state read and
        written, the new parameter written."""
        return gradient_bytes + 2 * state_bytes + parameter_bytes


def newton_schulz(rows: Number, columns: Number) -> tuple[ProductShape, ...]:
    """X X^T, its square, and the polynomial of both times X: 2 (2 r^2 c) + 2 r^3 FLOPs for r x c, r <= c."""
    return (rows, rows, columns), (rows, rows, columns), (rows, rows, rows)


_OPTIMIZERS = (
    OptimizerRecord("adamw", moments=2, in_megatron_core=True, precision_aware=True),
    # Moments of rows and columns alone, next to nothing per parameter.
    OptimizerRecord("adafactor", moments=0),
    OptimizerRecord("lamb", moments=2),
    # With momentum.
    OptimizerRecord("sgd", moments=1, in_megatron_core=True),
    OptimizerRecord("muon", moments=1, products=MatrixProducts("bf16", 5, newton_schulz), in_megatron_core=True),
)
OPTIMIZERS: dict[str, OptimizerRecord] = {record.name: record for record in _OPTIMIZERS}
