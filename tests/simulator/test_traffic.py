"""What the groups of a plan send in a step: sums known from the model, and plans of every kind laid on the network."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from math import comb
from pathlib import Path

import numpy as np
import pytest

from hardware.collectives.network_use import Stream
from hardware.precisions import FORMATS
from simulator.cost.traffic import step_streams
from simulator.model.parameters import total_parameters
from simulator.optimizers import OPTIMIZERS
from simulator.predict.prediction import evaluate, link_use
from simulator.predict.simulate import Simulated, simulate
from simulator.report.document import evaluate_document
from simulator.scenario.schema import load_scenario
from simulator.workload.states import parameter_bytes

SCENARIOS = Path(__file__).parents[2] / "scenarios"


@cache
def simulated(name: str, *changes: str) -> Simulated:
    return simulate(load_scenario(SCENARIOS / f"{name}.yaml", list(changes)))


def streams(done: Simulated, cause: str) -> list[Stream]:
    found = step_streams(done.workload, done.scenario.cluster)
    return [stream for stream in found if stream.cause == cause]


@pytest.mark.parametrize("name", ["tiny", "llama-3.1-405b-16384xh100", "deepseek-v3-2048xh800", "kimi-k2-10240xh100"])
def test_every_activation_crosses_every_stage_boundary_once_each_way(name: str) -> None:
    done = simulated(name)
    plan, model, run = done.scenario.plan, done.scenario.model, done.scenario.run
    activations = plan.global_batch_size * run.seq_length * model.hidden * 2.0
    sent = sum(float(stream.size_bytes.sum()) for stream in streams(done, "pp") if stream.operation == "send_recv")
    assert sent == pytest.approx(2 * (len(done.workload.stages) - 1) * activations)


@pytest.mark.parametrize("name", ["llama-3.1-405b-16384xh100", "deepseek-v3-2048xh800", "kimi-k2-10240xh100"])
def test_every_gradient_is_reduced_and_every_parameter_gathered_once(name: str) -> None:
    """All data-parallel groups together hold the model once, and twice what is small: norms, and MTP's copies."""
    done = simulated(name)
    plan, total = done.scenario.plan, total_parameters(done.scenario.model)
    reduction = "all_reduce" if OPTIMIZERS[plan.optimizer.kind].needs_whole_matrices else "reduce_scatter"
    held = {reduction: 0.0, "all_gather": 0.0}
    for stream in streams(done, "dp"):
        held[stream.operation] += float(stream.size_bytes.sum())
    assert total <= held[reduction] / FORMATS[plan.optimizer.grad_reduce].bytes < 1.02 * total
    assert total <= held["all_gather"] / parameter_bytes(plan) < 1.02 * total


def test_deepep_sends_one_copy_per_domain() -> None:
    """Kimi-K2: 8 of 384 experts over 4 servers, 3 of 4 copies leave; out in bf16 and home in bf16, both ways."""
    done = simulated("kimi-k2-10240xh100")
    plan, model, run = done.scenario.plan, done.scenario.model, done.scenario.run
    assert (plan.ep, done.scenario.cluster.node.scale_up.domain_gpus) == (32, 8)
    assert "moe" not in plan.recompute.modules
    servers = 4 * (1 - comb(288, 8) / comb(384, 8))
    layers = sum(hasattr(layer.ffn, "top_k") for layer in model.layers)
    assert (layers, plan.dispatch_fp8) == (60, False)
    tokens = plan.global_batch_size * run.seq_length
    expected = tokens * layers * servers * 3 / 4 * (4 * 2 * model.hidden)
    (stream,) = streams(done, "ep")
    assert float(stream.size_bytes.sum()) * plan.ep == pytest.approx(expected, rel=1e-6)


def test_tensor_parallelism_by_hand() -> None:
    """Llama 3.1 with sequence parallelism: per layer two gathers and two scatters of b s h forward, as many backward,
    and two gathers again for weight gradients; embedding and head together half of that."""
    done = simulated("llama-3.1-405b-16384xh100")
    plan, model, run = done.scenario.plan, done.scenario.model, done.scenario.run
    assert plan.recompute.granularity == "none"
    activations = plan.global_batch_size * run.seq_length * model.hidden * 2.0
    moved = {stream.operation: float(stream.size_bytes.sum()) / activations for stream in streams(done, "tp")}
    assert moved["reduce_scatter"] == pytest.approx(4 * 126 + 2)
    assert moved["all_gather"] == pytest.approx(6 * 126 + 3)
    # The loss reduces a few numbers per token over the split vocabulary.
    assert moved["all_reduce"] < 1e-3


def test_shares_sent_between_stages_are_gathered_where_they_arrive() -> None:
    """Megatron without sequence parallelism: every activation leaves once, and each tensor group gathers it whole."""
    done = simulated("gpt3-175b-1024xa100", "plan.sequence_parallel=false")
    plan, model, run = done.scenario.plan, done.scenario.model, done.scenario.run
    crossings = 2 * (len(done.workload.stages) - 1) * plan.global_batch_size * run.seq_length * model.hidden * 2.0
    moved = {"send_recv": 0.0, "all_gather": 0.0}
    for stream in streams(done, "pp"):
        moved[stream.operation] += float(stream.size_bytes.sum())
    assert moved == pytest.approx({"send_recv": crossings, "all_gather": crossings})


CHANGES = [
    ("tiny", ("plan.dispatcher=allgather",)),
    ("tiny", ("plan.dispatcher=deepep",)),
    ("tiny", ("plan.sharding=none",)),
    ("tiny", ("plan.pp=1", "plan.sharding=full")),
    ("tiny", ("plan.schedule=dualpipe-v", "plan.stack.framework=deepseek")),
    ("tiny", ("plan.tp=2", "plan.sequence_parallel=true")),
    ("tiny", ("cluster.node=mi300x-platform", "cluster.fabric=none")),
    ("tiny", ("cluster.gpus=64", "cluster.fabric=torus-3d")),
]


@pytest.mark.parametrize(("name", "changes"), CHANGES, ids=lambda value: " ".join(value) if value else "")
def test_plans_of_every_kind_are_laid_on_the_network(name: str, changes: tuple[str, ...]) -> None:
    done = simulated(name, *changes)
    use = link_use(done)
    assert use.bottleneck != "none"
    for one in use.classes:
        assert 0 <= one.mean_fraction <= one.busiest_fraction * (1 + 1e-9)
        # The step cannot be shorter than its busiest link is busy.
        assert one.busiest_fraction < 1
        sent = one.mean_fraction * one.capacity_bytes_per_s * done.step.step_time_s
        assert sum(one.bytes_by_cause.values()) == pytest.approx(sent)
    assert set().union(*(one.bytes_by_cause for one in use.classes)) <= set(done.step.breakdown())


def test_a_narrow_fabric_is_the_bottleneck_of_the_same_plan() -> None:
    """1:8 above the leaves: an eighth of the capacity carries the same bytes."""
    done = simulated("kimi-k2-10240xh100")
    cluster = done.scenario.cluster
    leaf, *above = cluster.fabric.tiers
    fabric = replace(cluster.fabric, tiers=(replace(leaf, oversubscription=8.0), *above))
    thin = replace(done.scenario, cluster=replace(cluster, fabric=fabric))
    full, narrow = ({use.name: use for use in link_use(one).classes} for one in (done, replace(done, scenario=thin)))
    assert narrow["nic"] == full["nic"]
    assert narrow["leaf"].mean_fraction == pytest.approx(8 * full["leaf"].mean_fraction)


def test_the_prediction_holds_it() -> None:
    prediction = evaluate(load_scenario(SCENARIOS / "tiny.yaml"))
    use = {one.name: one for one in prediction.network.classes}
    assert prediction.network.bottleneck == "scale_up"
    assert set(use["scale_up"].bytes_by_cause) == {"ep", "pp", "dp"}
    assert use["nic"].mean_fraction == 0
    assert np.isclose(use["scale_up"].capacity_bytes_per_s, 16 * 450e9)


DOUBLING = SCENARIOS / "examples" / "reduction-trees.yaml"


# Bytes that leave a GPU for each byte of gradients, over its NIC and inside its domain of 8; 64 ranks in 8 domains.
# Ring: 2 x 63/64, an eighth of the hops on a NIC. Doubling: 3 rounds inside, 3 across, whole. Trees: each of the two
# carries half the bytes over 7 edges, up and down; chains inside are walked up and down, 7 of 8 GPUs sending each way.
@pytest.mark.parametrize(
    ("algorithm", "network", "inside"),
    [
        ("ring", 2 * 63 / 64 / 8, 2 * 63 / 64 * 7 / 8),
        ("recursive_doubling", 3.0, 3.0),
        ("tree", 2 * 7 * 2 * (1 / 2) / 64, 2 * 7 / 8),
    ],
)
def test_gradients_cross_links_by_the_algorithm_of_the_plan(algorithm: str, network: float, inside: float) -> None:
    done = simulate(load_scenario(DOUBLING, [f"plan.gradients.algorithm={algorithm}"]))
    use = {one.name: one for one in link_use(done).classes}
    gradients = 4.0 * total_parameters(done.scenario.model)
    # What leaves one link arrives by another: both directions are counted.
    assert use["nic"].bytes_by_cause["dp"] == pytest.approx(2 * 64 * network * gradients, rel=1e-3)
    assert use["scale_up"].bytes_by_cause["dp"] == pytest.approx(2 * 64 * inside * gradients, rel=1e-3)


@pytest.mark.parametrize("fabric", ["edr-2tier", "hdr-rail-2tier"])
def test_the_report_counts_the_links_that_the_step_is_priced_on(fabric: str) -> None:
    """A NIC of 50 GB/s on switches with slower ports sends as fast as these."""
    prediction = evaluate(load_scenario(DOUBLING, [f"cluster.fabric={fabric}"]))
    (nic,) = (one for one in prediction.network.classes if one.name == "nic")
    port = prediction.scenario.cluster.fabric.tiers[0].port_bandwidth_bytes_per_s
    assert port < prediction.scenario.cluster.node.nic.bandwidth_bytes_per_s
    assert nic.gpu_bytes_per_s == pytest.approx(port)
    assert evaluate_document(prediction)["scenario"]["cluster"]["scale_out_bytes_per_s"] == pytest.approx(port)
