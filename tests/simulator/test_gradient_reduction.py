"""How gradients are reduced: compressed, in buckets of a size of one's own, by an algorithm of one's own."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from hardware import catalogue
from hardware.collectives import Group, collective_s, strided_group
from hardware.collectives.compression import compressed_reduce_scatter, sent_as_if_bytes
from hardware.collectives.reductions import REDUCTIONS, recursive_doubling_s
from hardware.kernels.streaming import streaming_s
from hardware.problems import InputError
from simulator.cost.updates import buckets_of_size
from simulator.predict.prediction import Prediction, evaluate
from simulator.scenario.schema import load_scenario

SCENARIOS = Path(__file__).parents[2] / "scenarios"
CLUSTER = catalogue.cluster(64, "hgx-h100", "ndr-rail-2tier")
PLAIN = (
    "cluster.gpus=64",
    "cluster.fabric=ndr-rail-2tier",
    "cluster.node={base: hgx-h100, nic: {bandwidth: 12.5 GB/s}}",
    "plan.pp=1",
    "plan.ep=1",
    "plan.global_batch_size=256",
    "run.failures=none",
)
WHOLE = (*PLAIN, "plan.sharding=none")


def predicted(how: str, *given: str) -> Prediction:
    return evaluate(load_scenario(SCENARIOS / "tiny.yaml", [*(given or WHOLE), f"plan.gradients={how}"]))


def test_quantised_sums_go_inside_the_domain_first() -> None:
    """Of 1 GB fp32 each byte stands for four, with an fp32 scale for 128: 258 MB inside, an eighth of that between."""
    found = compressed_reduce_scatter(1e9, "int8", strided_group(CLUSTER, 64), CLUSTER)
    small = 1e9 / 4 * (1 + 4 / 128)
    between = Group(8.0, 1.0, tier=strided_group(CLUSTER, 64).tier)
    inside_s = collective_s("all_to_all", small, Group(8.0, 8.0), CLUSTER).seconds
    between_s = collective_s("all_to_all", small / 8, between, CLUSTER).seconds
    assert float(found.exchange_s) == pytest.approx(inside_s + between_s, rel=1e-6)
    inside = 1e9 + small + small + 1e9 / 8
    across = (1e9 + small + small + 1e9 / 8) / 8
    moved_s = streaming_s(CLUSTER.accelerator, inside + across, "elementwise")
    assert float(found.compress_s) == pytest.approx(float(moved_s))
    assert float(found.sent_bytes) == pytest.approx(small * 63 / 64)


def test_what_compression_sends_stands_for_fewer_bytes() -> None:
    """1 % of the entries with their indices, from 64 ranks to 63 others, are 63 x 2 % of the bytes; an all-reduce of S
    bytes sends 2 S 63 / 64."""
    group = strided_group(CLUSTER, 64)
    assert sent_as_if_bytes(1e9, "none", group, CLUSTER, None) == 1e9
    assert sent_as_if_bytes(1e9, "int8", group, CLUSTER, None) == pytest.approx(1e9 * 0.25 * (1 + 1 / 32))
    assert sent_as_if_bytes(1e9, "topk", group, CLUSTER, 0.01) == pytest.approx(0.02e9 * 64 / 2)


def test_doubling_takes_a_round_for_every_power_of_two() -> None:
    """Four ranks of one domain: two rounds, each an exchange of everything and a sum of two buffers into one."""
    round_s = collective_s("send_recv", 1e6, Group(2.0, 2.0), CLUSTER).seconds
    sum_s = streaming_s(CLUSTER.accelerator, 3e6, "elementwise")
    assert recursive_doubling_s(1e6, Group(4.0, 4.0), CLUSTER) == pytest.approx(2 * (round_s + sum_s))


def test_doubling_suits_small_buffers_and_rings_large_ones() -> None:
    group = strided_group(CLUSTER, 64)
    ring_s, doubling_s = ([REDUCTIONS[name](size, group, CLUSTER) for size in (1e3, 1e9)]
                          for name in ("ring", "recursive_doubling"))  # fmt: skip
    assert doubling_s[0] < ring_s[0]
    assert doubling_s[1] > 3 * ring_s[1]


def test_buckets_are_filled_up_and_large_layers_cut() -> None:
    """Of 60 parameters each: a layer of 100 fills two, two of 30 share one, a last one stays by itself."""
    layers = [(100.0, 0.0), (30.0, 0.0), (20.0, 10.0), (30.0, 0.0)]
    assert buckets_of_size(layers, 60.0) == [(50.0, 0.0), (50.0, 0.0), (50.0, 10.0), (30.0, 0.0)]


def test_gradients_in_several_buckets_hide_behind_backward() -> None:
    one, several, many = (predicted(f"{{bucket: {size}}}").step_time_s for size in ("100 GiB", "200 MiB", "256 KiB"))
    assert several < one
    assert several < many  # of which each waits for its own latency


def test_sparser_gradients_are_faster_and_keep_their_remainder() -> None:
    found = [predicted(f"{{compression: topk, keep: {keep}}}") for keep in (0.05, 0.01, 0.001)]
    for more, less in pairwise(found):
        assert less.step_time_s < more.step_time_s
        assert less.training_time_s < more.training_time_s
        assert less.network.classes[1].mean_fraction < more.network.classes[1].mean_fraction
        assert less.run is not None
        assert more.run is not None
        assert less.run.cost_usd < more.run.cost_usd
    held = found[0].stages[0].memory_bytes
    assert held["error feedback"] == pytest.approx(4 * found[0].parameters_total, rel=0.01)
    whole = predicted("{}").stages[0].memory_bytes
    assert {name: size for name, size in held.items() if name != "error feedback"} == whole


def test_eight_bit_gradients_need_no_remainder_and_go_with_sharding() -> None:
    plain, small = predicted("{}", *PLAIN), predicted("{compression: fp8}", *PLAIN)
    assert small.step_time_s < plain.step_time_s
    assert small.peak_memory_bytes == plain.peak_memory_bytes


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("{compression: gzip}", "compression"),
        ("{compression: topk}", "every rank gathers the whole sum"),
        ("{compression: int8, keep: 0.5}", "keeps no part of the entries"),
        ("{algorithm: tree}", "scatters sums and has no all-reduce"),
        ("{bucket: 1 KiB}", "must be at least 262,144"),
    ],
)
def test_what_does_not_go_together_is_refused(how: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_scenario(SCENARIOS / "tiny.yaml", [*PLAIN, f"plan.gradients={how}"])
