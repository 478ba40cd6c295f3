"""Every GPU by itself: equal to the folded step without spread, to brute force where groups are trivial, and to
order statistics where they are not; the slow one is found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator.schedules import SCHEDULES, Schedule, make_schedule
from simulator.step.build import build_graph
from simulator.step.graph import KIND, STREAM, TaskGraph
from simulator.step.inequality import study
from simulator.step.phases import Op, Phase, Program, folded
from simulator.step.ranks import Grid, ProgramOf, simulate_ranks
from simulator.step.spread import (
    ExpertLoad,
    Spread,
    compute_factors,
    expert_factors,
    mean_one,
    rank_shares,
    read_histogram,
)
from simulator.step.sweep import sweep, sweep_timeline
from simulator.step.times import DataParallel, StageTimes


def layer(index: int, scale: float, backward: bool = False) -> tuple[Op, ...]:
    return (
        Op(0.9e-3 * scale, "mixer", index, backward),
        Op(0.1e-3, "tp", index, backward),
        Op(0.2e-3, "cp", index, backward),
        Op(0.3e-3, "ep", index, backward),
        Op(1.1e-3 * scale, "experts", index, backward),
        Op(0.4e-3, "ep", index, backward),
    )


def program_of(kind: str, stage: int, backward_stage: int) -> Program:
    """Two layers per stage, heavier on later ones."""
    scale = 1 + 0.1 * (stage if kind == "F" else backward_stage)
    if kind == "W":
        return (Phase(tuple(Op(0.7e-3 * scale, "ffn", index) for index in range(2))),)
    if kind == "FB":
        return tuple(
            phase
            for i in range(2)
            for phase in (
                Phase(layer(i, 1 + stage)[:1], (Op(1.5e-3, "ep", 1 - i, True),)),
                Phase(layer(i, 1)[4:5] + layer(1 - i, 2, True)[4:5], (Op(0.6e-3, "ep", i),)),
            )
        )
    scale *= 2 if kind == "B" else 1
    return (Phase(layer(0, scale) + layer(1, scale)), Phase((Op(1e-5, "host"),)))


def times_of(program: ProgramOf, stages: int, data: DataParallel) -> StageTimes:
    def column(kind: str) -> dict[str, np.ndarray]:
        rows = [folded(program(kind, stage, stage)) for stage in range(stages)]
        return {cause: np.array([row[cause] for row in rows]) for cause in rows[0]}

    pairs = [[folded(program("FB", ahead, back)) for back in range(stages)] for ahead in range(stages)]
    return StageTimes(
        column("F"),
        column("I"),
        column("W"),
        np.full(stages, 2e-4),
        np.full(stages, 1e-4),
        backward_s=column("B"),
        pair_s={cause: np.array([[pair[cause] for pair in row] for row in pairs]) for cause in pairs[0][0]},
        data_parallel=data,
    )


def step(name: str, pp: int, m: int, data: DataParallel, program: ProgramOf = program_of) -> tuple[Schedule, TaskGraph]:
    schedule = make_schedule(name, pp, 2 if name.startswith("interleaved") else 1, m)
    return schedule, build_graph(schedule, times_of(program, schedule.stages, data))


@pytest.mark.parametrize("name", SCHEDULES)
def test_equal_ranks_are_the_folded_step(name: str) -> None:
    pp = 1 if name.startswith("none") else 4
    stages = step(name, pp, 8, DataParallel())[0].stages
    data = DataParallel(((1e-3,) * 3,) * stages, ((2e-3,) * 3,) * stages, grad_norm_s=1e-4, optimizer_s=(0.01,) * pp)
    schedule, graph = step(name, pp, 8, data)
    grid = Grid(pp, dp=4, tp=2, cp=2, ep=4, etp=2)
    found = simulate_ranks(graph, schedule.stage_of_chunk, program_of, grid, Spread())
    assert found.step_time_s == pytest.approx(sweep_timeline(graph).step_time_s, rel=1e-9)
    assert not found.worst()


def test_lone_replicas_are_brute_force() -> None:
    """Without groups each replica is a pipeline of its own: the sweep of its own durations."""
    schedule, graph = step("1f1b", 4, 6, DataParallel())
    grid, spread = Grid(4, dp=5), Spread(gpu_sigma=0.1, slow_nodes={1: 1.5})

    def compute_only(kind: str, stage: int, back: int) -> Program:
        return (Phase((Op(sum(folded(program_of(kind, stage, back)).values()), "mixer", 0),)),)

    found = simulate_ranks(graph, schedule.stage_of_chunk, compute_only, grid, spread, seed=11)
    factors = compute_factors(spread, 20, 8, np.random.default_rng(11)).reshape(4, 5)
    slots = graph.stream == STREAM["compute"]
    durations = graph.duration_s[:, None] * np.where(slots[:, None], factors[graph.rank], 1.0)
    _, end = sweep(graph, durations)
    np.testing.assert_allclose(found.end_s.max(axis=0), end.max(axis=0), rtol=1e-12)


def one_op(*ops: Op) -> ProgramOf:
    return lambda kind, stage, back: (Phase(ops),)


def test_barrier_in_every_layer() -> None:
    """Two GPUs of an expert group, one twice as slow in one layer, the other in the next: each layer takes 2 s."""
    program = one_op(Op(1.0, "mixer", 0), Op(0.5, "ep", 0), Op(1.0, "mixer", 1), Op(0.5, "ep", 1))
    schedule, graph = step("none", 1, 1, DataParallel(), program)
    found = simulate_ranks(graph, schedule.stage_of_chunk, program, Grid(1, dp=2, ep=2), Spread(slow_gpus={1: 2.0}))
    assert found.step_time_s == pytest.approx(2 * (2 * 2.0 + 2 * 0.5))
    assert found.wait_s["ep"].tolist() == [[4.0, 0.0]]
    assert found.worst() == [(1, 4.0)]


@pytest.mark.parametrize("grid", [Grid(2, dp=2, tp=8), Grid(2, dp=16, ep=8), Grid(2, dp=4, cp=4), Grid(2, dp=16)])
def test_the_slow_gpu_is_blamed(grid: Grid) -> None:
    """Whatever the group: also when it holds up replicas that only meet in the gradient reduction."""
    data = DataParallel(reduce_s=((1e-3,), (1e-3,)), grad_norm_s=1e-5, optimizer_s=(1e-3, 1e-3))
    schedule, graph = step("1f1b", 2, 4, data)
    spread = Spread(slow_gpus={21: 1.2}, jitter={"mixer": 0.001})
    found = simulate_ranks(graph, schedule.stage_of_chunk, program_of, grid, spread)
    assert found.worst()[0][0] == 21
    assert found.step_time_s > sweep_timeline(graph).step_time_s


def test_the_slow_gpu_of_a_light_stage_is_blamed() -> None:
    """Its pipeline is late through it, though the other stage computes longer."""
    data = DataParallel(reduce_s=((1e-3,), (1e-3,)), optimizer_s=(1e-3, 1e-3))
    schedule, graph = step("1f1b", 2, 4, data)
    found = simulate_ranks(graph, schedule.stage_of_chunk, program_of, Grid(2, dp=16), Spread(slow_gpus={5: 1.05}))
    assert [gpu for gpu, _ in found.worst()] == [5]


def test_slow_link_holds_up_its_group() -> None:
    program = one_op(Op(1.0, "mixer", 0), Op(0.5, "ep", 0))
    schedule, graph = step("none", 1, 1, DataParallel(), program)
    grid, spread = Grid(1, dp=4, ep=2), Spread(slow_links={3: 4.0})
    found = simulate_ranks(graph, schedule.stage_of_chunk, program, grid, spread)
    assert found.end_s.tolist() == [[3.0, 3.0, 6.0, 6.0]]
    assert found.worst() == [(3, 2 * 0.5 * 3.0)]  # its partner waits 3 times 0.5 s longer, forward and backward


def test_jitter_costs_the_expected_maximum() -> None:
    """The mean maximum of 1000 standard normals is 3.241 (tables of normal order statistics)."""
    sigma, ops = 0.01, 200
    program = one_op(*(op for index in range(ops) for op in (Op(1.0, "mixer", index), Op(0.0, "ep", index))))
    schedule, graph = step("none", 1, 1, DataParallel(), program)
    spread = Spread(jitter={"mixer": sigma})
    found = simulate_ranks(graph, schedule.stage_of_chunk, program, Grid(1, dp=1000, ep=1000), spread, seed=3)
    assert (found.step_time_s / (2 * ops) - 1) / sigma == pytest.approx(3.241, rel=0.03)


def test_factors_have_mean_one() -> None:
    rng = np.random.default_rng(5)
    assert mean_one(0.3, rng.standard_normal(200_000)).mean() == pytest.approx(1.0, abs=0.005)
    load = ExpertLoad(exponent=0.6, count=256, tokens=4096 * 8)
    shares = rank_shares(load, 3, 64, 256)
    assert shares.sum() == pytest.approx(1.0)
    assert expert_factors(shares, load.tokens, 500, rng).mean() == pytest.approx(1.0, abs=0.005)
    assert rank_shares(ExpertLoad(histogram=((3.0, 1.0, 2.0, 2.0),)), 7, 2, 4).tolist() == [0.5, 0.5]


def test_expert_noise_is_multinomial() -> None:
    """Spread of balanced counts: sqrt((1 - 1/ep) / (tokens / ep)) of the mean, as multinomial draws have."""
    rng, ep, tokens = np.random.default_rng(9), 16, 4000
    drawn = rng.multinomial(tokens, np.full(ep, 1 / ep), size=4000) / (tokens / ep)
    normal = expert_factors(np.full(ep, 1 / ep), tokens, 4000, rng)
    assert normal.std() == pytest.approx(drawn.std(), rel=0.03)
    assert normal.max(axis=1).mean() == pytest.approx(drawn.max(axis=1).mean(), rel=0.01)


def test_forward_and_backward_see_the_same_load() -> None:
    """A lone overloaded expert group costs the same in both directions, whatever order the slots run in."""
    program = one_op(Op(1.0, "experts", 0))
    load = Spread(experts=ExpertLoad(exponent=0.5, count=64, tokens=1000))
    ends = []
    for name in ("gpipe", "1f1b"):
        schedule, graph = step(name, 1, 5, DataParallel(), program)
        ends.append(simulate_ranks(graph, schedule.stage_of_chunk, program, Grid(1, dp=8, ep=8), load, seed=2).end_s)
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-12)


def test_study_names_every_cause() -> None:
    schedule, graph = step("1f1b", 2, 4, DataParallel(reduce_s=((1e-3,), (1e-3,))))
    spread = Spread(gpu_sigma=0.05, jitter={"mixer": 0.05}, slow_gpus={5: 1.4}, experts=ExpertLoad(0.3, 32))
    report = study(graph, schedule.stage_of_chunk, program_of, Grid(2, dp=16, ep=16), spread, seeds=(1, 2, 3))
    assert set(report.tax_fraction) == {"gpu_sigma", "jitter", "slow_gpus", "experts"}
    assert all(tax > 0 for tax in report.tax_fraction.values())
    assert report.step_times_s.min() > report.ideal_s
    assert report.quantile_s(0.5) <= report.quantile_s(0.9)
    assert report.ideal_s == pytest.approx(sweep_timeline(graph).step_time_s, rel=1e-9)


def test_same_seed_same_step() -> None:
    schedule, graph = step("1f1b", 2, 4, DataParallel())
    spread = Spread(gpu_sigma=0.05, jitter={"mixer": 0.05}, sequence_sigma=0.2, experts=ExpertLoad(0.2, 32, tokens=512))
    runs = [
        simulate_ranks(graph, schedule.stage_of_chunk, program_of, Grid(2, dp=8, ep=4), spread, s) for s in (4, 4, 5)
    ]
    np.testing.assert_array_equal(runs[0].end_s, runs[1].end_s)
    assert runs[0].step_time_s != runs[2].step_time_s


@pytest.mark.parametrize(
    ("spread", "words"),
    [
        (Spread(slow_gpus={99: 2.0}), "slow_gpus: 99 does not exist; there are 0 to 15"),
        (Spread(slow_nodes={0: float("nan")}), "slow_nodes: 0 has factor nan"),
        (Spread(slow_links={0: -1.0}), "slow_links: 0 has factor -1.0"),
        (Spread(experts=ExpertLoad(histogram=((1.0, 2.0, 3.0),))), "3 counts, not negative, must divide over ep 8"),
    ],
)
def test_wrong_spread_is_named(spread: Spread, words: str) -> None:
    schedule, graph = step("1f1b", 2, 2, DataParallel())
    with pytest.raises(ValueError, match=words):
        simulate_ranks(graph, schedule.stage_of_chunk, program_of, Grid(2, dp=8, ep=8), spread)
    with pytest.raises(ValueError, match="must divide tp"):
        Grid(2, dp=8, ep=3)
    with pytest.raises(ValueError, match="the graph has 2 pipeline ranks"):
        simulate_ranks(graph, schedule.stage_of_chunk, program_of, replace(Grid(2, dp=8, ep=8), pp=4), Spread())


def test_piecewise_slots_keep_their_time() -> None:
    """A forward cut into buckets takes as long on every GPU as the whole."""
    data = DataParallel(gather_s=((0.0,) * 4,) * 2)
    schedule, graph = step("1f1b", 2, 3, data)
    assert (graph.kind == KIND["F"]).sum() == 2 * (3 + 3)
    found = simulate_ranks(graph, schedule.stage_of_chunk, program_of, Grid(2, dp=4, ep=2), Spread())
    assert found.step_time_s == pytest.approx(sweep_timeline(graph).step_time_s, rel=1e-9)


def test_histogram_file(tmp_path: Path) -> None:
    path = tmp_path / "routed.csv"
    path.write_text("10,20,30,40\n5,5,5,85\n")
    load = ExpertLoad(histogram=read_histogram(path))
    assert rank_shares(load, 1, 2, 4).tolist() == [0.1, 0.9]
    path.write_text("10,20\n5,x,5\n")
    with pytest.raises(ValueError, match="line 2: 3 experts, but line 1 has 2; line 2: 'x' is not a count"):
        read_histogram(path)
    path.write_text("\n")
    with pytest.raises(ValueError, match="no rows; one line of token counts per layer"):
        read_histogram(path)
