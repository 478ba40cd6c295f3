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

    `moments`: numbers kept per parameter, in the plan's format of moments; `factored_moments`: of each matrix one more
    number for every row and column, summed up over the ranks that share it. `products`: what it computes on whole
    matrices beside its elementwise update (None: nothing).
    `gradient_passes`, `weight_passes`: how often the gradient's and the main weight's bytes pass memory beyond an
    elementwise update; `tensor_norms`: numbers of each tensor that ranks add up before they update it.
    `in_megatron_core`: its distributed optimizer offers it; `precision_aware`: there with states below 32 bit, and
    with states in host memory.
    """

    name: str
    moments: int
    products: MatrixProducts | None = None
    factored_moments: bool = False
    gradient_passes: int = 0
    weight_passes: int = 0
    tensor_norms: int = 0
    in_megatron_core: bool = False
    precision_aware: bool = False

    @property
    def needs_whole_matrices(self) -> bool:
        """Whether matrices are dealt whole to the ranks of a shard group; shards of a flat buffer would cut them.

        Every rank then receives whole gradients: they are all-reduced, and updated weights gathered
        (megatron/core/optimizer/layer_wise_optimizer.py, from memory).
        """
        return self.products is not None

    def shared_numbers(self, rows: Number, columns: Number) -> Number:
        """Numbers that the ranks sharing one matrix add up in a step before they update it."""
        return self.tensor_norms + (rows + columns if self.factored_moments else 0)

    def state_bytes(self, main_bytes: float, moment_bytes: float) -> float:
        """Bytes kept per parameter: the master copy (0 bytes: none) and the moments, of so many bytes each."""
        return main_bytes + self.moments * moment_bytes

    def update_bytes(
        self, gradient_bytes: float, state_bytes: float, parameter_bytes: Number, main_bytes: float = 0.0
    ) -> Number:
        """Bytes that the update of one parameter reads and writes: its gradient read, its state (of which `main_bytes`
        are the main weight) read and written, the new parameter written, and what the optimizer passes again."""
        elementwise = gradient_bytes + 2 * state_bytes + parameter_bytes
        weight_bytes = main_bytes or parameter_bytes
        return elementwise + self.gradient_passes * gradient_bytes + self.weight_passes * weight_bytes


def newton_schulz(rows: Number, columns: Number) -> tuple[ProductShape, ...]:
    """X X^T, its square, and the polynomial of both times X: 2 (2 r^2 c) + 2 r^3 FLOPs for r x c, r <= c."""
    return (rows, rows, columns), (rows, rows, columns), (rows, rows, rows)


_OPTIMIZERS = (
    OptimizerRecord("adamw", moments=2, in_megatron_core=True, precision_aware=True),
    # Second moments of rows and columns alone. The gradient is read for the means of its squares, and the update for
    # its root mean square, by which it is clipped (arXiv 1804.04235, algorithm 4).
    OptimizerRecord("adafactor", moments=0, factored_moments=True, gradient_passes=2, tensor_norms=1),
    # The update is written in the gradient's place, read for its norm and read again to be scaled; the weight is read
    # for its own (apex's multi_tensor_lamb: two stages and two norms between them).
    OptimizerRecord("lamb", moments=2, gradient_passes=3, weight_passes=1, tensor_norms=2),
    # With momentum.
    OptimizerRecord("sgd", moments=1, in_megatron_core=True),
    OptimizerRecord("muon", moments=1, products=MatrixProducts("bf16", 5, newton_schulz), in_megatron_core=True),
)
OPTIMIZERS: dict[str, OptimizerRecord] = {record.name: record for record in _OPTIMIZERS}
