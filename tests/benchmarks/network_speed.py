"""How fast the network is built, routed and solved: `python tests/benchmarks/network_speed.py` prints one line each.

Growth with flows and with GPUs is printed as a table and, with `--plot FILE.html`, drawn. Seconds are of one CPU core's
time (user and system), so that a busy machine does not count.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from sys import path as module_path

import numpy as np

module_path.insert(0, str(Path(__file__).parents[2]))

from hardware import catalogue
from hardware.collectives import Group, collective_s, links_of, strided_group
from hardware.collectives.play import play, strided_groups
from hardware.flows import max_min_rates, simulate
from hardware.routing import route
from hardware.topology import Network, build_network

NODE, FABRIC = "hgx-h100", "ndr-rail-3tier"


def seconds(work: Callable[[], object], repeats: int = 1) -> float:
    """Best CPU time of several runs."""
    best = float("inf")
    for _ in range(repeats):
        begin = time.process_time()
        work()
        best = min(best, time.process_time() - begin)
    return best


def line(what: str, took_s: float, note: str = "") -> None:
    print(f"{what:<72}{took_s:>12.6f} s  {note}", flush=True)


def network(gpus: int) -> Network:
    return build_network(catalogue.cluster(gpus, NODE, FABRIC))


def uniform(net: Network, flows: int) -> tuple[np.ndarray, np.ndarray]:
    source, target = np.random.default_rng(0).integers(0, net.gpus, (2, flows))
    return source, target


def build() -> None:
    cluster = catalogue.cluster(131072, "hgx-b300", "azure-mrc")
    took = seconds(lambda: build_network(cluster))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    line(
        "build 131,072 GPUs on 8 planes of 2-tier Clos",
        took,
        f"{build_network(cluster).links} links, peak {peak / 1e9:.2f} GB",
    )


def solve_growth(plot: str | None) -> None:
    sixteen = network(16384)
    flows, by_flows = [1_000, 10_000, 100_000, 1_000_000], []
    for count in flows:
        routes = route(sixteen, *uniform(sixteen, count))
        by_flows.append(seconds(lambda r=routes: max_min_rates(r.paths, r.capacity)))  # type: ignore[misc]
        line(f"max-min rates, {count:,} hashed flows on 16,384 GPUs", by_flows[-1])
    sizes, by_gpus = [1024, 4096, 16384, 65536], []
    for gpus in sizes:
        net = network(gpus)
        routes = route(net, *uniform(net, 100_000))
        by_gpus.append(seconds(lambda r=routes: max_min_rates(r.paths, r.capacity)))  # type: ignore[misc]
        line(f"max-min rates, 100,000 hashed flows on {gpus:,} GPUs", by_gpus[-1])
    for what, x, y in (("flows", flows, by_flows), ("GPUs", sizes, by_gpus)):
        slope = np.polyfit(np.log(x), np.log(y), 1)[0]
        print(f"  time grows as {what} to the power {slope:.2f}")
    if plot:
        draw(plot, flows, by_flows, sizes, by_gpus)


def draw(path: str, flows: list[int], by_flows: list[float], gpus: list[int], by_gpus: list[float]) -> None:
    from plotly.subplots import make_subplots

    figure = make_subplots(cols=2, subplot_titles=["flows on 16,384 GPUs", "GPUs, 100,000 flows"])
    figure.add_scatter(x=flows, y=by_flows, row=1, col=1, showlegend=False)
    figure.add_scatter(x=gpus, y=by_gpus, row=1, col=2, showlegend=False)
    figure.update_xaxes(type="log").update_yaxes(type="log", title="CPU seconds")
    figure.write_html(path, include_plotlyjs=True)


def collectives() -> None:
    ten, groups = network(10240), strided_groups(10240, 64)
    for policy in ("adaptive", "ecmp"):
        source = np.concatenate([np.repeat(group, 64) for group in groups])
        target = np.concatenate([np.tile(group, 64) for group in groups])
        keep = source != target
        source, target = source[keep], target[keep]

        def exchange(policy: str = policy, source: np.ndarray = source, target: np.ndarray = target) -> None:
            routes = route(ten, source, target, policy)
            simulate(routes.paths, routes.capacity, np.full(len(source), 1e6))

        line(f"all 160 EP64 all-to-alls of 10,240 GPUs, {len(source):,} flows, {policy}", seconds(exchange))
    sixteen = network(16384)
    ranks = [np.arange(16384)]
    played = play(sixteen, "all_reduce", ranks, 64 * 2**20, "ring")
    took = seconds(lambda: play(sixteen, "all_reduce", ranks, 64 * 2**20, "ring"), 3)
    line("64 MiB ring all-reduce over 16,384 ranks, folded", took, f"{played.flows:,} flows of {played.kinds} kinds")


def all_to_all() -> None:
    """128 ranks spread over 128 nodes, hashed, every pair its own size: rates change at thousands of finishes."""
    net = network(2048)
    ranks = np.arange(128) * 16
    source, target = np.repeat(ranks, 128), np.tile(ranks, 128)
    keep = source != target
    source, target = source[keep], target[keep]
    size = np.random.default_rng(0).lognormal(0, 0.5, len(source)) * 1e6
    routes = route(net, source, target)
    equal = simulate(routes.paths, routes.capacity, np.full(len(source), 1e6))
    took = seconds(lambda: simulate(routes.paths, routes.capacity, np.full(len(source), 1e6)))
    line(f"all-to-all of {len(source):,} hashed flows of equal size, exact", took, f"{equal.solves} solves")
    bound = max(np.bincount(source, size).max(), np.bincount(target, size).max()) / 50e9
    for tolerance in (1e-2, 5e-3):
        begin = time.process_time()
        times = simulate(routes.paths, routes.capacity, size, tolerance=tolerance)
        took, over = time.process_time() - begin, times.makespan_s / bound
        note = f"{times.solves} solves, {over:.3f} of the NIC bound"
        line(f"all-to-all of {len(source):,} hashed flows of different sizes, tolerance {tolerance}", took, note)


def closed_form() -> None:
    cluster = catalogue.cluster(10240, NODE, FABRIC)
    group, calls = strided_group(cluster, 64), 2000
    took = seconds(lambda: [collective_s("all_reduce", 1e6 + i, group, cluster) for i in range(calls)], 3) / calls
    line("closed form, one all-reduce", took)
    rng, links = np.random.default_rng(0), links_of(cluster)
    many = Group(2.0 ** rng.integers(1, 10, 100_000), 2.0 ** rng.integers(0, 2, 100_000))
    sizes = rng.uniform(1e3, 1e9, 100_000)
    took = seconds(lambda: collective_s("all_reduce", sizes, many, links), 2)
    line("closed form, 100,000 all-reduces of different groups", took)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plot", metavar="FILE.html")
    options = parser.parse_args()
    build()
    closed_form()
    collectives()
    solve_growth(options.plot)
    all_to_all()


if __name__ == "__main__":
    main()
