"""Parameter servers, local SGD and input pipelines against what can be said in closed form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import simpy

from simulator.outer_loop.input_pipeline import InputPipeline, simulate_input
from simulator.outer_loop.local_sgd import LocalSgd, simulate_local_sgd
from simulator.outer_loop.parameter_server import FairLink, ParameterServer, ServerResult, simulate_server

SERVER = ParameterServer(8, 1.0, 2e9, 1e9, server_bytes_per_s=1e10, worker_bytes_per_s=5e9, update_s=0.01)


def served(spec: ParameterServer, steps: int = 40, seed: int = 0) -> ServerResult:
    return simulate_server(spec, steps, np.random.default_rng(seed))


def test_fair_link_shares() -> None:
    """1 GB at 0 s, 1 GB at 0.5 s over 1 GB/s: half done alone, then both at half rate: 1.5 and 2.0 s."""
    env = simpy.Environment()
    link, ends = FairLink(env, 1e9, 1e9), []

    def move(at_s: float, size: float):  # type: ignore[no-untyped-def]
        yield env.timeout(at_s)
        yield link.transfer(size)
        ends.append(env.now)

    for at_s in (0.0, 0.5, 5.0):
        env.process(move(at_s, 1e9))
    env.run()
    assert ends == pytest.approx([1.5, 2.0, 6.0])


def test_synchronous_round() -> None:
    """Equal workers: all pull together, compute, push together, one update."""
    round_s = 8 * 2e9 / 1e10 + 1.0 + 8 * 1e9 / 1e10 + 0.01
    found = served(SERVER)
    assert found.seconds == pytest.approx(40 * round_s)
    assert found.steps_per_s == pytest.approx(8 / round_s)
    assert found.staleness.tolist() == [320]
    assert found.waiting_fraction == pytest.approx(1 - 1.0 / round_s)
    few = served(replace(SERVER, workers=1))
    assert few.seconds == pytest.approx(40 * (2e9 / 5e9 + 1.0 + 1e9 / 5e9 + 0.01))  # now the worker's port is narrower


def test_asynchronous_staleness_is_the_number_of_others() -> None:
    """Between a worker's read and its update every other worker updates once, in the mean."""
    for workers in (2, 8, 16):
        spec = replace(SERVER, mode="asynchronous", workers=workers, jitter_sigma=0.2, server_bytes_per_s=1e12)
        assert served(spec, 200).mean_staleness == pytest.approx(workers - 1, rel=0.03)


def test_asynchronous_saturates_the_server() -> None:
    """Many workers out of step: the servers' outgoing links move one set of parameters per update, no more."""
    many = replace(SERVER, mode="asynchronous", workers=96, step_s=10.0, jitter_sigma=0.5, update_s=0.0)
    found = served(many, 60)
    assert 0.92 * 5 < found.steps_per_s <= 1e10 / 2e9  # short of it by the way in and the way out
    assert found.traffic_bytes_per_s == pytest.approx(found.steps_per_s * 3e9)
    slow_updates = served(replace(many, update_s=0.5))
    assert slow_updates.steps_per_s == pytest.approx(2.0, rel=0.05)


def test_a_straggler_holds_up_as_far_as_the_rule_says() -> None:
    """One worker three times slower: synchronous and bounded runs go at its pace; asynchronous ones do not."""
    spec = replace(SERVER, slow={3: 3.0}, server_bytes_per_s=1e12, worker_bytes_per_s=1e12, update_s=0.0)
    until = {mode: served(replace(spec, mode=mode, bound=2)) for mode in ("synchronous", "bounded", "asynchronous")}  # type: ignore[arg-type]
    pace = 8 / (3.0 + 3e9 / 1e12 * 8)
    assert until["synchronous"].steps_per_s == pytest.approx(pace, rel=0.01)
    assert until["bounded"].steps_per_s == pytest.approx(pace, rel=0.03)
    assert until["bounded"].waiting_fraction > 0.4
    assert until["asynchronous"].waiting_fraction < until["synchronous"].waiting_fraction
    # A gradient of the slow worker sees at most what the others may do beside one of its steps: bound + 1 each,
    # and as much again that they were behind.
    assert len(until["bounded"].staleness) - 1 <= 7 * (2 + 1) * 2
    assert until["asynchronous"].mean_staleness <= 7


def test_bound_zero_is_nearly_synchronous() -> None:
    spec = replace(SERVER, update_s=0.0, jitter_sigma=0.3)
    strict = served(replace(spec, mode="bounded", bound=0), seed=4)
    loose = served(replace(spec, mode="bounded", bound=3), seed=4)
    free = served(replace(spec, mode="asynchronous"), seed=4)
    assert strict.steps_per_s == pytest.approx(served(spec, seed=4).steps_per_s, rel=0.05)
    assert strict.steps_per_s < loose.steps_per_s <= free.steps_per_s * 1.02


def test_wrong_server_is_named() -> None:
    words = "step_s must be positive, not 0.0; bound must not be negative, but is -1; slow: worker 2 does not exist"
    with pytest.raises(ValueError) as error:
        ParameterServer(2, 0.0, 1, 1, 1, 1, bound=-1, slow={2: 2.0})
    assert str(error.value) == words


LOCAL = LocalSgd(4, 500, 2.0, exchange_bytes=4e9, link_bytes_per_s=1.25e9, latency_s=0.05)


def test_local_sgd_round() -> None:
    """H steps, then 2 (k - 1)/k of the bytes over the thin link; H times less traffic than exchanging every step."""
    rng = np.random.default_rng(0)
    exchange_s = 2 * 3 / 4 * 4e9 / 1.25e9 + 6 * 0.05
    found = simulate_local_sgd(LOCAL, 5, rng)
    assert found.round_s == pytest.approx(np.full(5, 1000 + exchange_s))
    assert found.waiting_fraction == pytest.approx(exchange_s / (1000 + exchange_s))
    assert found.synchronous_bytes_per_step / found.link_bytes_per_step == 500
    assert found.link_bytes_per_step == 6e9 / 500
    hidden = simulate_local_sgd(replace(LOCAL, overlap=True), 5, rng)
    assert hidden.round_s == pytest.approx(np.full(5, 1000.0))
    thin = simulate_local_sgd(replace(LOCAL, overlap=True, link_bytes_per_s=1e6, latency_s=0.0), 50, rng)
    assert thin.round_s[10:] == pytest.approx(np.full(40, 6e9 / 1e6))


def test_slowest_cluster_sets_the_pace() -> None:
    spec = replace(LOCAL, slow={2: 1.5}, exchange_bytes=0.0, latency_s=0.0)
    assert simulate_local_sgd(spec, 3, np.random.default_rng(0)).steps_per_s == pytest.approx(1 / 3.0)
    with pytest.raises(ValueError, match="slow: cluster 4 does not exist"):
        replace(LOCAL, slow={4: 2.0})


INPUT = InputPipeline(
    readers=64,
    sequences=2,
    sequence_bytes=5e7,
    storage_bytes_per_s=64e9,
    rank_bytes_per_s=2e9,
    prepare_s=0.5,
    loaders=4,
)


def test_input_keeps_up_when_it_is_faster() -> None:
    """A rank's share is 1 GB/s: 4 loaders read 0.1 GB in 0.4 s each, prepare in 0.5 s: a batch per 0.225 s."""
    assert INPUT.read_s == pytest.approx(0.4)
    assert 1 / INPUT.batches_per_s == pytest.approx(0.225)
    found = simulate_input(INPUT, 0.3, 100, np.random.default_rng(0))
    assert found.starved_s[0] == pytest.approx(0.9)  # the first batch
    assert found.starved_s[1:] == pytest.approx(np.zeros(99))


def test_input_starves_when_it_is_slower() -> None:
    found = simulate_input(INPUT, 0.1, 400, np.random.default_rng(0))
    assert found.step_s.mean() == pytest.approx(1 / INPUT.batches_per_s, rel=0.02)
    assert found.starved_fraction == pytest.approx(1 - 0.1 / 0.225, rel=0.02)
    crowded = replace(INPUT, readers=640)
    assert simulate_input(crowded, 0.3, 400, np.random.default_rng(0)).step_s.mean() == pytest.approx(4.5 / 4, rel=0.02)


def test_input_noise_costs_the_slowest_rank() -> None:
    """Deeper prefetch hides a noisy preparation; without depth every step waits for the slowest of 64 ranks."""
    noisy = replace(INPUT, prepare_sigma=0.6)
    shallow = simulate_input(replace(noisy, prefetch=1), 0.3, 300, np.random.default_rng(1)).starved_fraction
    deep = simulate_input(replace(noisy, prefetch=8), 0.3, 300, np.random.default_rng(1)).starved_fraction
    assert shallow > deep
    assert shallow > 0.1
    with pytest.raises(ValueError, match="loaders must be positive, not 0"):
        replace(INPUT, loaders=0)
