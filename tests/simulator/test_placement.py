"""Rank maps and group geometry, against Megatron-Core's recorded groups and brute force."""

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.collectives import strided_group
from hardware.specs import Accelerator, Cluster, Fabric, Nic, Node, ScaleUp, SwitchTier
from simulator.plans.placement import GROUP_AXES, axes, coordinates, geometry, groups, process_group, rank_of
from simulator.plans.spec import Plan

DATA = Path(__file__).parent / "data"
ORACLE = [json.loads(line) for line in (DATA / "megatron_oracle.groups.jsonl").read_text().splitlines()[1:]]


def plan_of(**fields: object) -> Plan:
    return Plan(micro_batch_size=1, global_batch_size=1, **fields)  # type: ignore[arg-type]


def cluster_of(gpus: int, node_gpus: int = 8, domain_gpus: int = 8) -> Cluster:
    gpu = Accelerator("test", "test", {"bf16": 1e15}, 80e9, 3e12, 132, 700.0, 100.0, 50e9, "test")
    scale_up = ScaleUp("nvswitch", domain_gpus, 450e9, 1e-6, True)
    node = Node("test", gpu, node_gpus, scale_up, Nic("infiniband", 50e9, 2e-6), 1000.0)
    tiers = tuple(SwitchTier(str(reach), 64, 50e9, 1.0, 1e-6, reach) for reach in (32, 512, 131_072))
    return Cluster("test", gpus, node, Fabric("test", "clos", tiers, False, 1, True, False))


@pytest.mark.parametrize("row", ORACLE, ids=lambda row: "-".join(map(str, row["plan"].values())))
def test_groups_are_megatrons(row: dict) -> None:
    plan = plan_of(**row["plan"])
    for kind, expected in row["groups"].items():
        assert groups(plan, kind).tolist() == expected, kind


@pytest.mark.parametrize("row", ORACLE[:20], ids=lambda row: "-".join(map(str, row["plan"].values())))
def test_coordinates_and_ranks_are_inverse(row: dict) -> None:
    plan = plan_of(**row["plan"])
    ranks = np.arange(plan.gpus)
    at = coordinates(plan, ranks)
    assert np.array_equal(rank_of(plan, tp=at.tp, cp=at.cp, dp=at.dp, pp=at.pp), ranks)
    for axis, kind in (("tp", "tp"), ("ep", "ep"), ("edp", "edp"), ("pp", "pp")):
        assert all(len(set(getattr(at, axis)[group])) == len(group) for group in groups(plan, kind))


def brute_force(plan: Plan, kind: str, cluster: Cluster) -> dict[str, object]:
    """The geometry counted from the full list of groups."""
    found: dict[str, object] = {}
    even = True
    listed = groups(plan, kind)
    for unit, size in (("domain", cluster.node.scale_up.domain_gpus), ("node", cluster.node.gpus)):
        counts = [Counter((group // size).tolist()) for group in listed]
        everything = [count for counted in counts for count in counted.values()]
        found[f"ranks_per_{unit}"] = min(everything)
        found[f"{unit}s"] = max(len(counted) for counted in counts)
        even &= min(everything) == max(everything)
        if unit == "node":
            found["groups_per_node"] = max(Counter(node for counted in counts for node in counted).values())
    return found | {"ranks": listed.shape[1], "aligned": even}


degrees = st.sampled_from([1, 1, 2, 3, 4, 6, 8])


@settings(max_examples=60, deadline=None)
@given(
    degrees, degrees, degrees, degrees, st.integers(0, 10), st.sampled_from([(8, 8), (4, 72), (4, 8), (6, 12), (8, 16)])
)
def test_geometry_agrees_with_counting(tp: int, cp: int, dp: int, pp: int, pick: int, node: tuple[int, int]) -> None:
    world = tp * cp * dp
    divisors = [d for d in range(1, world + 1) if world % d == 0]
    plan = plan_of(tp=tp, cp=cp, dp=dp, pp=pp, ep=divisors[pick % len(divisors)])
    cluster = cluster_of(plan.gpus, *node)
    for kind in GROUP_AXES:
        got = geometry(plan, kind, cluster)
        expected = brute_force(plan, kind, cluster)
        assert {key: getattr(got, key) for key in expected} == expected, kind


def test_deepseek_v3_expert_group_spans_eight_nodes() -> None:
    plan = plan_of(dp=128, pp=16, ep=64)
    got = geometry(plan, "ep", cluster_of(2048))
    assert (got.ranks, got.ranks_per_node, got.nodes, got.groups_per_node, got.aligned) == (64, 8, 8, 1, True)
    assert geometry(plan, "edp", cluster_of(2048)).strides == (64,)
    assert geometry(plan, "pp", cluster_of(2048)).groups_per_node == 8


def test_six_way_tensor_parallelism_straddles_servers() -> None:
    got = geometry(plan_of(tp=6, dp=4), "tp", cluster_of(24))
    assert (got.nodes, got.ranks_per_node, got.aligned) == (2, 2, False)


def test_sixty_four_rank_expert_groups_straddle_full_racks_of_72() -> None:
    plan = plan_of(dp=576, ep=64)
    got = geometry(plan, "ep", cluster_of(576, 4, 72))
    assert (got.domains, got.ranks_per_domain, got.aligned) == (2, 8, False)
    one_rack = geometry(replace(plan, dp=512), "ep", cluster_of(512, 4, 64))
    assert (one_rack.domains, one_rack.ranks_per_domain, one_rack.aligned) == (1, 64, True)


def test_large_world() -> None:
    plan = plan_of(tp=8, cp=2, dp=512, pp=16, ep=64)
    assert plan.gpus == 131_072
    for kind in GROUP_AXES:
        listed = groups(plan, kind)
        assert listed.size == plan.gpus
        assert math.prod(listed.shape) == plan.gpus
        assert listed.shape[1] == geometry(plan, kind, cluster_of(131_072)).ranks


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="rank_order"):
        groups(plan_of(dp=4, rank_order="tp-dp"), "tp")
    with pytest.raises(ValueError, match="kind"):
        groups(plan_of(dp=4), "xp")
    with pytest.raises(ValueError, match="must divide"):
        groups(plan_of(dp=4, ep=3), "ep")


@pytest.mark.parametrize("kind", ["tp", "cp", "dp", "pp", "etp", "ep", "edp"])
@pytest.mark.parametrize("fields", [{"tp": 4, "cp": 2, "dp": 64, "pp": 4, "ep": 32}, {"dp": 128, "pp": 16, "ep": 64}])
def test_regular_groups_are_strided_groups(kind: str, fields: dict) -> None:
    """Powers of two that fill domains and blocks: the closed form by stride says the same."""
    plan = plan_of(**fields)
    cluster = cluster_of(plan.gpus)
    axis = next(axis for grid in ("dense", "expert") for axis in axes(plan, grid) if axis.name == kind)
    assert process_group(plan, kind, cluster) == strided_group(cluster, axis.size, axis.stride)


def test_a_straddling_group_is_priced_in_two_domains() -> None:
    plan = plan_of(dp=576, ep=64)
    group = process_group(plan, "ep", cluster_of(576, 4, 72))
    assert (group.ranks, group.domains) == (64, 2)
    assert process_group(plan_of(dp=512, ep=64), "ep", cluster_of(512, 4, 64)).domains == 1


def test_data_and_context_groups_over_two_axes() -> None:
    """cp 2 inside a node of tp 4: the ranks of a dp x cp group come in pairs, two blocks of 32 hold four pairs each."""
    plan = plan_of(tp=4, cp=2, dp=8)
    group = process_group(plan, "dp_cp", cluster_of(64))
    assert (group.ranks, group.ranks_per_domain, group.domains, group.tier, group.domains_per_block) == (16, 2, 8, 1, 4)
