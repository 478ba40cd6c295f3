"""Bucketed, fused and compressed gradient reduction, parameter servers, and sweeps in nccl-tests' columns."""

from __future__ import annotations

import numpy as np
import pytest

from hardware import catalogue
from hardware.collectives import collective_s, strided_group
from hardware.collectives.gradients import (
    SCHEMES,
    compressed_all_reduce,
    ddp_buckets,
    fusion_buckets,
    parameter_server_s,
    reduce_buckets,
)
from hardware.collectives.sweep import bus_factor, sizes_between, sweep

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
    buckets = ddp_buckets(sizes)
    done = reduce_buckets(ready, sizes, buckets, GROUP, CLUSTER)
    assert (done.start_s[1:] >= done.end_s[:-1]).all()
    assert done.bucket_bytes.sum() == sizes.sum()
    assert done.exposed_s == pytest.approx(done.end_s[-1] - 0.1)
    one = reduce_buckets(ready, sizes, np.zeros(50, int), GROUP, CLUSTER)
    assert one.exposed_s == pytest.approx(collective_s("all_reduce", sizes.sum(), GROUP, CLUSTER).seconds)
    assert done.exposed_s < one.exposed_s / 5
    # Unfused, a thousand small tensors pay a thousand latencies.
    small = np.full(1000, 1e4)
    alone = reduce_buckets(np.zeros(1000), small, np.arange(1000), GROUP, CLUSTER)
    fused = reduce_buckets(np.zeros(1000), small, fusion_buckets(np.zeros(1000), small), GROUP, CLUSTER)
    assert fused.exposed_s < alone.exposed_s / 50


@pytest.mark.parametrize("scheme", sorted(SCHEMES))
def test_every_scheme_adds_up_and_sends_what_it_says(scheme: str) -> None:
    keep = 4 if scheme == "low_rank" else 0.001
    size = 1e9
    time = compressed_all_reduce(size, scheme, GROUP, CLUSTER, keep)
    assert time.seconds == pytest.approx(time.compress_s + time.exchange_s)
    sent = {
        "none": size * 2 * 63 / 64,
        "fp8": size / 4 * (1 + 1 / 32) * 2 * 63 / 64,
        "int8": size / 4 * (1 + 1 / 32) * 2 * 63 / 64,
        "topk": size * 0.001 * 2 * 63,
        "low_rank": 2 * 4 * 4 * np.sqrt(size / 4) * 2 * 63 / 64,
    }[scheme]
    assert time.sent_bytes == pytest.approx(sent)
    assert (time.compress_s == 0) == (scheme == "none")


def test_compression_pays_over_thin_networks_and_not_inside_a_node() -> None:
    thin = catalogue.cluster(16, "aws-p4de", "aws-efa")
    across, inside = strided_group(thin, 2, 8), strided_group(CLUSTER, 8)
    assert (
        compressed_all_reduce(1e9, "low_rank", across, thin, 4).seconds
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
        for row in sweep(operation, CLUSTER, 64, sizes):
            assert row.algbw_bytes_per_s == pytest.approx(row.size_bytes / row.time_s)
            assert row.busbw_bytes_per_s == pytest.approx(row.algbw_bytes_per_s * bus_factor(operation, 64))
    assert (bus_factor("all_reduce", 8), bus_factor("all_gather", 8), bus_factor("reduce", 8)) == (1.75, 0.875, 1.0)
    assert sweep("all_reduce", CLUSTER, 1, [8.0])[0].time_s == 0.0
    forced = sweep("all_reduce", CLUSTER, 8, sizes, "ring", "LL")
    assert {(row.algorithm, row.protocol) for row in forced} == {("ring", "LL")}
    for arguments in ((0, 8), (16, 8), (8, 16, 1)):
        with pytest.raises(ValueError, match="sizes: "):
            sizes_between(*arguments)
    with pytest.raises(ValueError, match="does not fit its 512 GPUs"):
        sweep("all_reduce", CLUSTER, 1024, sizes)
