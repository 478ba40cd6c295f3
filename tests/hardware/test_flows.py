"""The max-min solver and the fluid simulation, alone: closed forms, properties, brute force, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hardware.flows import CapacityChange, fold, max_min_rates, merge, simulate, without_idle_limits


def columns(*routes: list[int], links: int) -> np.ndarray:
    height = max(len(route) for route in routes)
    return np.array([route + [links] * (height - len(route)) for route in routes], np.int32).T


def brute_force(paths: np.ndarray, capacity: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """Progressive filling in its textbook form, one level at a time, flow by flow."""
    links, flows = len(capacity), paths.shape[1]
    rates, frozen = np.zeros(flows), np.zeros(flows, bool)
    crosses = np.array([[np.count_nonzero(paths[:, f] == link) for f in range(flows)] for link in range(links)])
    for _ in range(flows + 1):
        if frozen.all():
            break
        room = capacity - crosses @ rates
        count = crosses[:, ~frozen].sum(axis=1)
        steps = [room[i] / count[i] for i in range(links) if count[i]]
        step = min([*steps, *(caps - rates)[~frozen]])
        rates[~frozen] += max(step, 0.0)
        full = (capacity - crosses @ rates <= 1e-9 * capacity.max()) & (count > 0)
        frozen |= (crosses[full] > 0).any(axis=0) | (rates >= caps * (1 - 1e-12))
    return rates


def test_parking_lot() -> None:
    """One flow over n links, one more on each: the long one gets half of the narrowest, the others the rest."""
    paths = columns([0, 1, 2], [0], [1], [2], links=3)
    assert max_min_rates(paths, np.array([1.0, 2.0, 4.0])).tolist() == [0.5, 0.5, 1.5, 3.5]


def test_incast_shares_the_sink() -> None:
    senders = 32
    paths = columns(*[[i, senders] for i in range(senders)], links=senders + 1)
    assert max_min_rates(paths, np.full(senders + 1, 10.0)) == pytest.approx(np.full(senders, 10 / senders))


def test_dumbbell_gives_what_slow_flows_leave() -> None:
    """Access links 1, 2, 10 before a bottleneck of 9: the first two keep theirs, the last takes the other 6."""
    paths = columns([0, 3], [1, 3], [2, 3], links=4)
    assert max_min_rates(paths, np.array([1.0, 2.0, 10.0, 9.0])).tolist() == [1.0, 2.0, 6.0]


@pytest.mark.parametrize("ratio", [1.0, 2.0, 7.0])
def test_two_tiers_oversubscribed(ratio: float) -> None:
    """Eight hosts on each of two leaves, all sending across: 1/ratio of their port each."""
    capacity = np.concatenate([np.full(16, 1.0), [8.0 / ratio]])
    paths = columns(*[[i, 16, 8 + i] for i in range(8)], links=17)
    assert max_min_rates(paths, capacity) == pytest.approx(np.full(8, 1 / ratio))


def test_caps_and_weights() -> None:
    paths = columns([0], [0], links=1)
    assert max_min_rates(paths, np.array([10.0]), caps=np.array([2.0, np.inf])).tolist() == [2.0, 8.0]
    assert max_min_rates(paths, np.array([10.0]), np.array([4.0, 1.0])).tolist() == [2.0, 2.0]
    assert max_min_rates(paths, np.array([10.0]), np.array([4.0, 1.0]), np.array([1.0, np.inf])).tolist() == [1.0, 6.0]
    free = columns([1], [0], links=1)
    assert max_min_rates(free, np.array([10.0])).tolist() == [np.inf, 10.0]


@st.composite
def traffic(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    links, flows = draw(st.integers(1, 8)), draw(st.integers(1, 14))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    capacity = rng.choice([1.0, 2.0, 3.0, 7.5, 10.0], links)
    routes = [rng.permutation(links)[: rng.integers(1, min(links, 4) + 1)].tolist() for _ in range(flows)]
    caps = np.where(rng.random(flows) < 0.3, rng.choice([0.2, 0.5, 1.0], flows), np.inf)
    return columns(*routes, links=links), capacity, caps


@given(traffic())
@settings(max_examples=150, deadline=None)
def test_equals_brute_force(case: tuple) -> None:
    paths, capacity, caps = case
    assert max_min_rates(paths, capacity, caps=caps) == pytest.approx(brute_force(paths, capacity, caps), rel=1e-6)


@given(traffic())
@settings(max_examples=150, deadline=None)
def test_properties_of_max_min_fairness(case: tuple) -> None:
    paths, capacity, caps = case
    rates = max_min_rates(paths, capacity, caps=caps)
    load = np.bincount(paths.ravel(), np.broadcast_to(rates, paths.shape).ravel(), len(capacity) + 1)[:-1]
    assert (load <= capacity * (1 + 1e-9)).all(), "a link above its capacity"
    full = np.append(load >= capacity * (1 - 1e-6), False)
    for flow, rate in enumerate(rates):
        # Pareto-optimal and fair: every flow meets its cap, or a full link on which nobody has more.
        mine = [link for link in paths[:, flow] if full[link]]
        best = [rates[(paths == link).any(axis=0)].max() for link in mine]
        assert rate >= caps[flow] * (1 - 1e-9) or any(rate >= other * (1 - 1e-6) for other in best)
    order = np.random.default_rng(0).permutation(paths.shape[1])
    assert max_min_rates(paths[:, order], capacity, caps=caps[order]) == pytest.approx(rates[order], rel=1e-9)
    assert max_min_rates(paths, capacity * 1e9, caps=caps * 1e9) == pytest.approx(rates * 1e9, rel=1e-9)


def test_rounds_and_one_by_one_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    paths, capacity = rng.integers(0, 300, (4, 5000)).astype(np.int32), rng.uniform(1, 10, 300)
    quick = max_min_rates(paths, capacity)
    monkeypatch.setattr("hardware.flows.max_min._ONE_BY_ONE", 0)
    assert max_min_rates(paths, capacity) == pytest.approx(quick, rel=1e-9)


def test_finish_times_of_flows_that_share_then_part() -> None:
    """10 and 30 bytes over one link of 10: the short one ends at 2 s, the long one, alone from then, at 4 s."""
    paths = columns([0], [0], links=1)
    assert simulate(paths, np.array([10.0]), np.array([10.0, 30.0])).finish_s.tolist() == [2.0, 4.0]


def test_arrivals_and_start_latency() -> None:
    paths = columns([0], [0], links=1)
    times = simulate(paths, np.array([10.0]), np.array([30.0, 10.0]), np.array([0.0, 0.5]) + np.array([0.0, 0.5]))
    assert times.finish_s.tolist() == [4.0, 3.0]
    empty = simulate(paths, np.array([10.0]), np.array([0.0, 10.0]), np.array([0.25, 0.0]))
    assert empty.finish_s.tolist() == [0.25, 1.0]


def test_a_link_degrades_in_the_middle() -> None:
    paths = columns([0], links=1)
    half = [CapacityChange(1.0, np.array([0]), 5.0)]
    assert simulate(paths, np.array([10.0]), np.array([20.0]), changes=half).finish_s.tolist() == [3.0]
    outage = [CapacityChange(1.0, np.array([0]), 0.0), CapacityChange(4.0, np.array([0]), 10.0)]
    assert simulate(paths, np.array([10.0]), np.array([20.0]), changes=outage).finish_s.tolist() == [5.0]
    with pytest.raises(ValueError, match="1 flows can never finish"):
        simulate(paths, np.array([10.0]), np.array([20.0]), changes=outage[:1])


@given(traffic(), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_bytes_are_conserved_and_never_faster_than_the_links(case: tuple, seed: int) -> None:
    paths, capacity, _ = case
    rng = np.random.default_rng(seed)
    size, start = rng.choice([1.0, 5.0, 20.0], paths.shape[1]), rng.choice([0.0, 0.0, 1.5], paths.shape[1])
    times = simulate(paths, capacity, size, start)
    alone = size / np.append(capacity, np.inf)[paths].min(axis=0)
    assert (times.finish_s >= (start + alone) * (1 - 1e-9)).all()
    for link in range(len(capacity)):
        mine = (paths == link).any(axis=0)
        if mine.any():
            busy = times.finish_s[mine].max() - start[mine].min()
            assert size[mine].sum() <= capacity[link] * busy * (1 + 1e-9)


def test_tolerance_is_late_by_no_more_than_it_says() -> None:
    rng = np.random.default_rng(2)
    paths = np.stack([rng.integers(0, 20, 400), 20 + rng.integers(0, 20, 400)]).astype(np.int32)
    size = rng.lognormal(0, 0.5, 400)
    exact = simulate(paths, np.ones(40), size)
    for tolerance in (1e-3, 1e-2):
        rough = simulate(paths, np.ones(40), size, tolerance=tolerance)
        assert rough.solves < exact.solves
        assert 1.0 <= rough.makespan_s / exact.makespan_s < 1 + 4 * tolerance


@given(traffic())
@settings(max_examples=100, deadline=None)
def test_links_implied_by_others_change_no_rate(case: tuple) -> None:
    paths, capacity, caps = case
    pruned = without_idle_limits(paths, capacity)
    whole = max_min_rates(paths, capacity, caps=caps)
    assert max_min_rates(pruned, capacity, caps=caps) == pytest.approx(whole, rel=1e-9)


def test_uplinks_behind_ports_are_implied() -> None:
    """Four hosts of 1 behind an uplink of 4 cannot fill it before their ports; behind one of 3 they can."""
    paths = columns(*[[i, 4] for i in range(4)], links=5)
    wide, narrow = (without_idle_limits(paths, np.array([1.0, 1, 1, 1, up])) for up in (4.0, 3.0))
    assert wide.tolist() == [[0, 1, 2, 3]]
    assert len(narrow) == 2


def test_merge_counts_equal_flows() -> None:
    paths = columns([0, 1], [2], [0, 1], [0, 1], links=3)
    first, kind, count = merge(paths, np.array([1.0, 1.0, 1.0, 2.0]))
    assert len(first) == 3
    assert count[kind].tolist() == [2.0, 1.0, 2.0, 1.0]
    assert kind[0] == kind[2] != kind[3]


def test_fold_of_symmetric_traffic_equals_the_unfolded_run() -> None:
    """Shift traffic among 24 equal hosts under 4 leaves is of few kinds; with one leaf degraded it is of more."""
    hosts, leaves = np.arange(24), np.arange(24) // 6
    paths = np.concatenate(
        [np.stack([hosts, 48 + leaves, 52 + leaves[(hosts + s) % 24], 24 + (hosts + s) % 24]) for s in (7, 13)], axis=1
    ).astype(np.int32)
    capacity = np.concatenate([np.full(48, 1.0), np.full(8, 4.0)])
    size = np.repeat([3.0, 5.0], 24)
    for narrow in (4.0, 2.5):
        capacity[48] = narrow
        whole = simulate(paths, capacity, size)
        small = fold(paths, capacity, size)
        folded = simulate(small.paths, small.capacity, size[small.first], weights=small.weights)
        assert folded.finish_s[small.kind] == pytest.approx(whole.finish_s, rel=1e-9)
        assert small.weights.sum() == 48
        assert len(small.first) < (8 if narrow == 4.0 else 49)


@given(traffic(), st.integers(0, 1000))
@settings(max_examples=60, deadline=None)
def test_fold_never_changes_rates(case: tuple, seed: int) -> None:
    paths, capacity, caps = case
    small = fold(paths, capacity, caps)
    rates = max_min_rates(small.paths, small.capacity, small.weights, caps[small.first])
    assert rates[small.kind] == pytest.approx(max_min_rates(paths, capacity, caps=caps), rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((columns([5], links=9), np.ones(2), np.ones(1)), "link indices lie in 0..2"),
        ((columns([0], links=1), np.array([-1.0]), np.ones(1)), "capacity: must not be negative"),
        ((columns([0], links=1), np.ones(1), np.ones(2)), "1 flows need 1 values"),
        ((columns([0], links=1), np.ones(1), np.array([np.nan])), "size_bytes: must not be negative or NaN"),
        ((columns([0], links=1), np.zeros(1), np.ones(1)), "can never finish"),
    ],
)
def test_broken_input_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        simulate(*arguments)
