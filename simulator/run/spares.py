"""How many spare nodes keep a job whole: nodes in repair follow Poisson's law around rate x repair time."""

from __future__ import annotations

import math

from simulator.run.faults import FailureModel


def nodes_away(model: FailureModel, gpus: int) -> float:
    """Mean number of nodes in repair at any time (Little's law: arrivals per second x mean seconds away).

    A GPU or node fault takes one node; racks and pods take theirs only where `nodes_per_*` say so and are not counted.
    """
    return sum(
        gpus * c.rate_per_gpu_s * (c.repair.mean_s() + c.detect.mean_s())
        for c in model.classes
        if c.repair is not None and c.scope in ("gpu", "node") and c.kind in ("crash", "hang", "corruption", "slow")
    )


def spares_needed(model: FailureModel, gpus: int, confidence: float = 0.99) -> int:
    """The fewest spares that are enough with this probability at any time.

    Exact for memoryless failures whatever the law of repair (M/G/infinity); bursts and swings need more.
    """
    mean = nodes_away(model, gpus)
    if mean == 0:
        return 0
    count, total = 0, 0.0
    while True:
        total += math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))
        if total >= confidence:
            return count
        count += 1
