"""What older software adds to a step: gradients joined by kernels of their own, lists of gathered tensors."""

import pytest

from simulator.cost.blocks import CHANNEL_SMS, beside_s, reduces_beside_weights
from simulator.cost.updates import gathers_lists, with_lists
from simulator.plans.spec import Optimizer, Overlap, Plan, Recompute
from simulator.scenario.schema import Scenario
from simulator.stack import Stack
from simulator.workload.states import accumulation_bytes
from tests.simulator.stacks import TORCHTITAN, ZERO3_2021, stack_of

PLAN = Plan(dp=1, micro_batch_size=1, global_batch_size=1)


def test_bytes_that_join_a_gradient_to_its_main_gradient() -> None:
    """bf16 into fp32: read 2 + 4 and write 4; with a cast first read 2, write 4, read 4 + 4, write 4."""
    assert [accumulation_bytes(PLAN, how) for how in ("fused", "hook", "cast")] == [0.0, 10.0, 18.0]
    half = Plan(dp=1, micro_batch_size=1, global_batch_size=1, precision="fp16", optimizer=Optimizer(grads="fp16"))
    assert accumulation_bytes(half, "hook") == 6.0


def test_a_collective_beside_products_costs_what_outlasts_them_and_its_multiprocessors() -> None:
    assert beside_s(1.0, 0.0, 108) == 1.0
    assert beside_s(1.0, 5.0, 108) == pytest.approx(CHANNEL_SMS / 108)
    assert beside_s(3.0, 1.0, 108) == pytest.approx(2.0 + CHANNEL_SMS / 108)


@pytest.mark.parametrize(
    ("stack", "overlap", "beside"),
    [
        (stack_of(), Overlap(), True),
        (stack_of(async_tp_backward=False), Overlap(), False),
        (TORCHTITAN, Overlap(), False),
        (stack_of(), Overlap(tp_comm=True), True),  # whichever of the two hides more
        (stack_of(), Overlap(delay_wgrad=True), True),  # nothing is put off without pairs
        (stack_of(), Overlap(delay_wgrad=True, moe_ep=True), False),
    ],
)
def test_which_stacks_reduce_input_gradients_beside_weight_gradients(
    stack: Stack, overlap: Overlap, beside: bool
) -> None:
    plan = Plan(dp=1, micro_batch_size=1, global_batch_size=1, tp=8, ep=8, stack=stack, overlap=overlap)
    assert reduces_beside_weights(plan) is beside


def test_lists_of_tensors_cost_their_calls_three_times_with_recomputation(deepseek: Scenario) -> None:
    plan = Plan(
        dp=8,
        micro_batch_size=1,
        global_batch_size=8,
        sharding="full",
        recompute=Recompute(granularity="full"),
        stack=ZERO3_2021,
    )
    assert gathers_lists(plan)
    gathers, reduces = with_lists(((1.0,), (1.0,)), [(0.0, 0.0)], 2.0, plan, deepseek.cluster)
    assert gathers[0] == pytest.approx(1.5 * 3.0, rel=1e-4)
    assert reduces[0] == pytest.approx(3.0, rel=1e-4)
