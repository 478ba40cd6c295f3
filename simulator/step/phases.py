"""A slot layer by layer: phases of computation with communication beside it.

The pipeline sees a slot as one stretch of seconds, the sum over its phases of the longer side; the rank-resolved
simulation runs the same phases on every GPU, with barriers at the communication.
"""

from __future__ import annotations

from typing import NamedTuple

COMPUTE_KERNELS = ("mixer", "ffn", "experts")
COMMUNICATION = ("tp", "cp", "ep")
HOST = "host"


class Op(NamedTuple):
    """One piece of a layer: `seconds` of a kernel class (COMPUTE_KERNELS), of communication in the group of that
    name, or of waiting for the host. `layer` numbers the model's layers with experts (-1: not one); in an overlapped
    pair `backward` tells its halves apart."""

    seconds: float
    kernel: str
    layer: int = -1
    backward: bool = False


class Phase(NamedTuple):
    """`main` runs on the compute stream one after the other, `beside` at the same time; both end before the next."""

    main: tuple[Op, ...]
    beside: tuple[Op, ...] = ()


Program = tuple[Phase, ...]


def folded(program: Program) -> dict[str, float]:
    """Seconds by cause when all ranks are equal: what stands on the compute stream, and what `beside` exposes."""
    spent = dict.fromkeys(("compute", *COMMUNICATION, HOST), 0.0)
    for phase in program:
        busy = 0.0
        for op in phase.main:
            spent["compute" if op.kernel in COMPUTE_KERNELS else op.kernel] += op.seconds
            busy += op.seconds
        waited = sum(op.seconds for op in phase.beside) - busy
        if waited > 0:
            spent[phase.beside[-1].kernel] += waited
    return spent
