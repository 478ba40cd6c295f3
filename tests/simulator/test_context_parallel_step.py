"""What context parallelism exposes is called cp, and nothing else is, wherever a step is broken down."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from simulator.predict.simulate import Simulated, simulate
from simulator.scenario.schema import load_scenario

QWEN = Path(__file__).parents[2] / "scenarios" / "qwen3-235b-256xh100.yaml"
PLAN = "plan={cp: 4, micro_batch_size: 1, global_batch_size: 64, recompute: full, cp_comm: %s%s}"


@cache
def exposed(cp_comm: str, changes: str = "", model: str = "llama-3.1-8b") -> dict[str, float]:
    done: Simulated = simulate(
        load_scenario(QWEN, [f"model={model}", "run.seq_length=32768", PLAN % (cp_comm, changes)])
    )
    return done.step.breakdown()


@pytest.mark.parametrize("cp_comm", ["p2p", "allgather", "a2a"])
def test_without_tensor_parallelism_no_time_is_tensor_parallelisms(cp_comm: str) -> None:
    assert exposed(cp_comm)["tp"] == 0.0


def test_what_no_attention_hides_is_exposed_as_cp() -> None:
    """Gathers and exchanges of heads stand open; a ring hides behind attention."""
    assert exposed("p2p")["cp"] == 0.0
    assert exposed("allgather")["cp"] > 0
    assert exposed("a2a")["cp"] > 0


def test_both_have_a_line_where_both_are() -> None:
    both = exposed("a2a", ", tp: 2, sequence_parallel: true")
    assert both["tp"] > 0
    assert both["cp"] > 0
