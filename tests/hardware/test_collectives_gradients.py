"""Bucketed, fused and compressed gradient reduction, parameter servers, and sweeps in nccl-tests' columns."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from hardware import catalogue
from hardware.collectives import collective_s, strided_group
from hardware.collectives.compression import COMPRESSIONS, compressed_all_reduce
from hardware.collectives.gradients import (
    Reduction,
    buckets_of,
    ddp_buckets,
    exposed_s,
    fusion_buckets,
    parameter_server_s,
    push_pull_buckets,
    ready_times,
    reduce_buckets,
    reduce_gradients,
    tensor_sizes,
)
from hardware.collectives.size_table import bus_factor, size_table, sizes_between

CLUSTER = catalogue.cluster(512, "hgx-h100", "ndr-rail-2tier")
GROUP = strided_group(CLUSTER, 64)


def test_ddp_buckets_close_once_full_and_the_first_is_small() -> None:
    sizes = np.array([0.6, 0.6, 10.0, 10.0, 10.0, 3.0]) * 2**20
    assert ddp_buckets(sizes).tolist() == [0, 0, 1, 1, 1, 2]


def test_fusion_takes_what_a_cycle_brings_up_to_the_threshold() -> None:
    ready = np.array([0.1e-3, 0.2e-3, 1.1e-3, 1.2e-3, 1.3e-3])
    assert fusion_buckets(ready, np.full(5, 10.0)).tolist() == [0, 0, 1, 1, 1]
    assert fusion_buckets(ready, np.full(5, 10.0), threshold_bytes=20).tolist() == [0, 0, 1, 1, 2]


def test_buckets_hide_behind_backward_but_for_the_last() -> None:
    ready, sizes = np.linspace(0, 0.1, 50), np.full(50, 8 * 2.0**20)
    rows = reduce_buckets(ready, sizes, ddp_buckets(sizes), GROUP, CLUSTER)
    assert all(later.start_s >= earlier.end_s for earlier, later in pairwise(rows))
    assert sum(row.size_bytes for row in rows) == sizes.sum()
    assert exposed_s(rows) == pytest.approx(rows[-1].end_s - 0.1)
    one = reduce_buckets(ready, sizes, np.zeros(50, int), GROUP, CLUSTER)
    assert exposed_s(one) == pytest.approx(collective_s("all_reduce", sizes.sum(), GROUP, CLUSTER).seconds)
    assert exposed_s(rows) < exposed_s(one) / 5
    # Unfused, a thousand small tensors pay a thousand latencies.
    small = np.full(1000, 1e4)
    alone = reduce_buckets(np.zeros(1000), small, np.arange(1000), GROUP, CLUSTER)
    fused = reduce_buckets(np.zeros(1000), small, fusion_buckets(np.zeros(1000), small), GROUP, CLUSTER)
    assert exposed_s(fused) < exposed_s(alone) / 50


def test_an_uncompressed_bucket_has_the_bus_bandwidth_of_nccl_tests() -> None:
    sizes = np.full(4, 2.0**28)
    rows = reduce_buckets(np.zeros(4), sizes, np.arange(4), GROUP, CLUSTER)
    expected = size_table("all_reduce", CLUSTER, 64, [2.0**28])[0].busbw_bytes_per_s
    assert [row.busbw_bytes_per_s for row in rows] == pytest.approx([expected] * 4)


def test_backward_readies_gradients_evenly_by_their_size() -> None:
    assert ready_times(np.array([1.0, 3.0, 4.0]), 0.8).tolist() == pytest.approx([0.1, 0.4, 0.8])


def test_every_scheme_has_its_own_buckets() -> None:
    sizes = np.full(4, 20 * 2.0**20)
    ready = np.array([0.0, 0.5e-3, 1.5e-3, 1.6e-3])
    assert buckets_of("ddp", ready, sizes).tolist() == [0, 1, 1, 2]
    assert buckets_of("ddp", ready, sizes, 10 * 2.0**20).tolist() == [0, 1, 2, 3]
    assert buckets_of("horovod", ready, sizes).tolist() == [0, 0, 1, 1]
    assert buckets_of("push_pull", ready, sizes).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="choose one of ddp, horovod, push_pull"):
        buckets_of("zero", ready, sizes)


def test_gradients_are_reduced_by_scheme_and_refused_where_settings_do_not_go_together() -> None:
    sizes = tensor_sizes("1MiB, 3x40MiB")
    assert sizes.tolist() == [2.0**20, *[40 * 2.0**20] * 3]
    rows = reduce_gradients(sizes, 0.01, GROUP, CLUSTER, Reduction("ddp", compression="fp8"))
    assert [row.tensors for row in rows] == [1, 1, 1, 1]
    assert rows[-1].ready_s == pytest.approx(0.01)
    assert rows[-1].sent_bytes == pytest.approx(sizes[-1] / 4 * (1 + 4 / 128) * 2 * 63 / 64)
    served = reduce_gradients(sizes, 0.01, GROUP, CLUSTER, Reduction("push_pull"))
    assert served[-1].sent_bytes == pytest.approx(sizes[-1] * 2 * 63 / 64)
    for how, message in (
        (Reduction("push_pull", compression="fp8"), "whole gradients"),
        (Reduction("ddp", servers=2), "take the scheme push_pull"),
        (Reduction("ddp", compression="topk", keep=0.0), "keep must be a fraction"),
    ):
        with pytest.raises(ValueError, match=message):
            reduce_gradients(sizes, 0.01, GROUP, CLUSTER, how)


@pytest.mark.parametrize("text", ["", "0x1MiB", "ax1MiB", "3x", "1MiB,,", "0 B", "9999999x1B"])
def test_lists_of_gradients_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"gradients|quantity|number"):
        tensor_sizes(text)


def test_workers_that_serve_each_other_send_what_a_ring_sends() -> None:
    sizes = np.full(2, 1e9)
    rows = push_pull_buckets(np.zeros(2), sizes, np.arange(2), 64, 0, CLUSTER)
    assert [row.sent_bytes for row in rows] == pytest.approx([2 * 1e9 * 63 / 64] * 2)
    assert exposed_s(rows) == pytest.approx(2 * parameter_server_s(1e9, 64, 64, CLUSTER, shared=True))
    apart = push_pull_buckets(np.zeros(2), sizes, np.arange(2), 64, 8, CLUSTER)
    assert exposed_s(apart) == pytest.approx(2 * parameter_server_s(1e9, 64, 8, CLUSTER))


@pytest.mark.parametrize("scheme", sorted(COMPRESSIONS))
def test_every_scheme_adds_up_and_sends_what_it_says(scheme: str) -> None:
    keep = {"powersgd": 4, "topk": 0.001}.get(scheme)
    size = 1e9
    time = compressed_all_reduce(size, scheme, GROUP, CLUSTER, keep)
    assert time.seconds == pytest.approx(time.compress_s + time.exchange_s)
    sent = {
        "none": size * 2 * 63 / 64,
        "fp8": size / 4 * (1 + 1 / 32) * 2 * 63 / 64,
        "int8": size / 4 * (1 + 1 / 32) * 2 * 63 / 64,
        "topk": size * 0.001 * 2 * 63,
        "powersgd": 2 * 4 * 4 * np.sqrt(size / 4) * 2 * 63 / 64,
    }[scheme]
    assert time.sent_bytes == pytest.approx(sent)
    assert (time.compress_s == 0) == (scheme == "none")


def test_compression_pays_over_thin_networks_and_not_inside_a_node() -> None:
    thin = catalogue.cluster(16, "aws-p4de", "aws-efa")
    across, inside = strided_group(thin, 2, 8), strided_group(CLUSTER, 8)
    assert (
        compressed_all_reduce(1e9, "powersgd", across, thin, 4).seconds
        < compressed_all_reduce(1e9, "none", across, thin).seconds / 5
    )
    assert (
        compressed_all_reduce(1e9, "topk", inside, CLUSTER, 0.1).seconds
        > compressed_all_reduce(1e9, "none", inside, CLUSTER).seconds
    )
    for arguments, message in ((("gzip", 0.1), "choose one of none, fp8"), (("topk", 2.0), "keep must be a fraction")):
        with pytest.raises(ValueError, match=message):
            compressed_all_reduce(1e9, arguments[0], inside, CLUSTER, arguments[1])


def test_parameter_server_scales_with_its_incast() -> None:
    few, many = (parameter_server_s(1e9, 64, servers, CLUSTER) for servers in (1, 64))
    assert few == pytest.approx(2 * 64 * 1e9 / 50e9, rel=1e-3)
    assert many == pytest.approx(2 * 1e9 / 50e9, rel=1e-3)
    # Sharded over the workers themselves it moves what a ring does.
    shared = parameter_server_s(1e9, 64, 64, CLUSTER, shared=True)
    assert shared == pytest.approx(2 * 63 / 64 * 1e9 / 50e9, rel=1e-3)
    with pytest.raises(ValueError, match="64 workers and 0 servers"):
        parameter_server_s(1e9, 64, 0, CLUSTER)


def test_sweep_has_the_bandwidths_of_nccl_tests() -> None:
    sizes = sizes_between(8, 16 * 2**30)
    assert len(sizes) == 32
    assert sizes[-1] == 16 * 2**30
    for operation in ("all_reduce", "all_gather", "all_to_all", "broadcast"):
        for row in size_table(operation, CLUSTER, 64, sizes):
            assert row.algbw_bytes_per_s == pytest.approx(row.size_bytes / row.time_s)
            assert row.busbw_bytes_per_s == pytest.approx(row.algbw_bytes_per_s * bus_factor(operation, 64))
    assert (bus_factor("all_reduce", 8), bus_factor("all_gather", 8), bus_factor("reduce", 8)) == (1.75, 0.875, 1.0)
    assert size_table("all_reduce", CLUSTER, 1, [8.0])[0].time_s == 0.0
    forced = size_table("all_reduce", CLUSTER, 8, sizes, "ring", "LL")
    assert {(row.algorithm, row.protocol) for row in forced} == {("ring", "LL")}
    for arguments in ((0, 8), (16, 8), (8, 16, 1)):
        with pytest.raises(ValueError, match="sizes: "):
            sizes_between(*arguments)
    with pytest.raises(ValueError, match="does not fit its 512 GPUs"):
        size_table("all_reduce", CLUSTER, 1024, sizes)
