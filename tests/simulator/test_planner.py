"""The search of plans: it says of every plan what `evaluate` says, and finds what playing all of them finds."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hardware.problems import InputError
from hardware.units import format_seconds
from simulator.planner.bounds import Weighed, weighed
from simulator.planner.candidates import SEARCHED as KEYS_SEARCHED
from simulator.planner.columns import NO_KEYS, Columns, compact
from simulator.planner.executors import Processes
from simulator.planner.frames import plan_from
from simulator.planner.layouts import split_by_cost
from simulator.planner.legality import OF_SEARCH
from simulator.planner.options import SearchOptions
from simulator.planner.outcome import own_limits
from simulator.planner.planning import plan as search
from simulator.planner.play import played_s
from simulator.planner.reads import Lanes, PlanView, Split, one_by_one, together
from simulator.planner.result import behind, is_tied, plan_line
from simulator.planner.search import Asked, chunks_of, search_chunk
from simulator.planner.shapes import Setting
from simulator.planner.space import FIRST_PLANS, NEAREST, Space, chunks, plan_of, plans_of, space_of, spread, tables
from simulator.plans.rules import WITHOUT_EFFECT, is_legal
from simulator.plans.spec import Offload
from simulator.predict.simulate import simulate
from simulator.report.plans import search_text
from simulator.scenario.schema import load_scenario
from simulator.scenario.spec import Scenario

SCENARIOS = Path(__file__).parents[2] / "scenarios"
# The best of a search are evaluated with their whole runs, which say nothing of their steps.
WITHOUT_FAILURES = "run.failures=none"
# A stack of universal rules only: every schedule is legal.
EVERY_SCHEDULE = ("plan.stack=hai-llm-2024", "plan.dispatch_fp8=false")


def scenario(name: str, *overrides: str) -> Scenario:
    return load_scenario(SCENARIOS / f"{name}.yaml", overrides, starts_search=True)


def legal_plans(space: Space) -> Iterator[Columns]:
    judge = space.judge()
    found = tables(space, judge)
    for rows in chunks(found):
        plans = plans_of(judge, found, rows)
        if len(plans):
            yield plans


def sample(space: Space, count: int, seed: int) -> Iterator[tuple[Weighed, np.ndarray]]:
    """Chunks of a space weighed, each with some of its rows, `count` in all."""
    setting, rng = Setting(space.scenario), random.Random(seed)
    parts = list(legal_plans(space))
    for number, plans in enumerate(parts):
        share = count * (number + 1) // len(parts) - count * number // len(parts)
        rows = np.array(sorted(rng.sample(range(len(plans)), min(share, len(plans)))))
        if len(rows):
            chosen = plans.take(rows)
            yield weighed(setting, chosen), np.arange(len(chosen))


def check_against_evaluate(space: Space, count: int, seed: int) -> set[str]:
    """Compares a sample with single predictions; gives the words in the plans that it saw."""
    setting, seen = Setting(space.scenario), set()
    for chunk, rows in sample(space, count, seed):
        seconds = played_s(setting, chunk, rows)
        for row, step_s in zip(rows.tolist(), seconds, strict=True):
            plan = plan_from(space.base, chunk.columns.row(row))
            done = simulate(replace(space.scenario, plan=plan))
            words = plan_line(plan)
            assert step_s == pytest.approx(done.step.step_time_s, rel=1e-9), words
            assert chunk.device_bytes[row] == pytest.approx(done.device_bytes, rel=1e-9), words
            peak = max(rank.allocated_bytes for rank in done.memory)
            assert chunk.peak_bytes[row] == pytest.approx(peak, rel=1e-9), words
            assert chunk.bound_s[row] <= step_s * (1 + 1e-12), words
            seen |= {plan.schedule, plan.dispatcher, plan.sharding, plan.recompute.granularity}
            seen |= {f"layout {plan.layout is not None}", f"pair {plan.is_paired}"}
    return seen


@pytest.mark.untraced
def test_300_plans_of_every_kind_are_what_evaluate_says() -> None:
    space = space_of(
        scenario("tiny", *EVERY_SCHEDULE),
        free={"sharding": ["none", "optimizer", "optimizer_gradients", "full"], "etp": None, "overlap.tp_comm": None},
    )
    seen = check_against_evaluate(space, 300, seed=1)
    schedules = {"none", "gpipe", "1f1b", "interleaved", "zb-h1", "zb-h2", "zb-v", "dualpipe", "dualpipe-v"}
    assert schedules <= seen
    assert {"allgather", "alltoall", "deepep", "hybridep"} <= seen
    assert {"none", "optimizer", "optimizer_gradients", "full", "selective"} <= seen
    assert {"layout True", "layout False", "pair True", "pair False"} <= seen


@pytest.mark.untraced
@pytest.mark.parametrize(
    ("name", "overrides", "keep"),
    [
        ("kimi-k2-10240xh100", (), ("tp", "cp", "pp")),
        ("deepseek-v3-2048xh800", (), ("tp", "cp", "ep", "micro_batch_size", "recompute")),
        ("deepseek-v3-256xgb200", (), ("cp", "micro_batch_size", "recompute")),
        ("llama-3.1-405b-16384xh100", (), ("pp", "micro_batch_size")),
        ("gpt3-175b-1024xa100", (), ("cp", "micro_batch_size")),
    ],
)
def test_plans_of_shipped_scenarios_are_what_evaluate_says(
    name: str, overrides: Sequence[str], keep: Sequence[str]
) -> None:
    check_against_evaluate(space_of(scenario(name, *overrides), keep=keep), 6, seed=2)


@pytest.mark.untraced
def test_stacks_that_shard_otherwise_are_what_evaluate_says() -> None:
    """FSDP gathers by layer, torch's pipelines keep buffers, DeepSpeed copies flat: each has memory of its own."""
    for stack in ("torchtitan-2025-06", "megatron-deepspeed-2022"):
        base = scenario("tiny", f"plan.stack={stack}")
        check_against_evaluate(space_of(base, keep=["cp"], free={"shard_group": [None, 2]}), 40, seed=3)


def test_rules_on_columns_are_the_rules_on_plans() -> None:
    space = space_of(scenario("tiny"))
    judge = space.judge()
    values = {
        "tp": (1, 2, 3),
        "cp": (1, 2),
        "pp": (1, 2),
        "dp": (1, 2, 4, 8),
        "ep": (1, 4, 5),
        "vpp": (1, 2),
        "schedule": ("none", "1f1b", "interleaved", "dualpipe"),
        "sequence_parallel": (False, True),
        "overlap.moe_ep": (False, True),
    }
    columns = NO_KEYS
    for key, choices in values.items():
        columns = columns.crossed(key, choices)
    rules = tuple(name for name in judge.rules() if name not in OF_SEARCH | WITHOUT_EFFECT)
    legal, undecided = judge.legal(columns, frozenset(), rules)
    assert not undecided
    rows = (dict(zip(values, choice, strict=True)) for choice in product(*values.values()))
    gpus, length = space.scenario.cluster.gpus, space.scenario.run.seq_length
    wanted = [row for row in rows if is_legal(space.facts, plan_of(space.base, row), gpus=gpus, seq_length=length)]
    assert [legal.row(index) for index in range(len(legal))] == wanted


def small_space() -> tuple[Scenario, list[str], dict[str, Any]]:
    keep = ["tp", "cp", "sequence_parallel", "dispatcher", "overlap.shared_experts", "overlap.delay_wgrad"]
    return scenario("tiny", WITHOUT_FAILURES), keep, {"micro_batch_size": [1, 2]}


@pytest.mark.untraced
def test_the_best_are_those_of_playing_all() -> None:
    base, keep, free = small_space()
    space = space_of(base, keep, free)
    plans = [plan_of(base.plan, part.row(row)) for part in legal_plans(space) for row in range(len(part))]
    times = sorted(simulate(replace(base, plan=plan)).step.step_time_s for plan in random.Random(4).sample(plans, 120))
    found = search(base, SearchOptions(keep=keep, free=free, top=10))
    assert found.legal == len(plans)
    assert found.played < found.legal
    assert found.plans[0].step_time_s <= times[0]
    setting = Setting(base)
    every = [weighed(setting, part) for part in legal_plans(space)]
    exact = np.concatenate([played_s(setting, part, np.arange(len(part.columns))) for part in every])
    held_bytes = np.concatenate([part.device_bytes for part in every])
    fastest = different([*zip(exact.tolist(), held_bytes.tolist(), strict=True)])[:10]
    assert [each.step_time_s for each in found.plans] == pytest.approx([step_s for step_s, _ in fastest], rel=1e-9)


def different(steps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Step times and bytes in order, each pair once."""
    found: list[tuple[float, float]] = []
    for step in sorted(steps):
        if not any(step == pytest.approx(other, rel=1e-9) for other in found[-8:]):
            found.append(step)
    return found


def check_the_best_of_playing_all(base: Scenario, keep: list[str], least: int) -> None:
    """Simulates every legal plan by itself and compares the fastest ten that fit with those of the search."""
    space = space_of(base, keep)
    rows = [part.row(row) for part in legal_plans(space) for row in range(len(part))]
    assert len(rows) >= least
    assert any(row["layout"] is not None for row in rows)
    capacity = base.cluster.accelerator.memory_capacity_bytes
    times = {}
    figures = {}
    for row in rows:
        plan = plan_of(base.plan, row)
        done = simulate(replace(base, plan=plan))
        if done.device_bytes <= capacity:
            times[plan] = done.step.step_time_s
            figures[plan] = done.step.step_time_s, done.device_bytes
    found = search(base, SearchOptions(keep=keep, top=10))
    assert (found.legal, found.fitting) == (len(rows), len(times))
    assert found.played < len(times)
    fastest = [step_s for step_s, _ in different([*figures.values()])][:10]
    assert [each.step_time_s for each in found.plans] == pytest.approx(fastest, rel=1e-9)
    shown = [(each.step_time_s, each.device_memory_bytes) for each in found.plans]
    faster = [pair for pair in figures.values() if pair[0] < fastest[-1] * (1 - 1e-9)]
    assert all(any(pair == pytest.approx(other, rel=1e-9) for other in shown) for pair in faster)


# Short steps, so that hundreds of plans can be played one by one.
SHORT = ("plan.global_batch_size=16", "plan.micro_batch_size=1", WITHOUT_FAILURES)


@pytest.mark.untraced
def test_the_ten_best_of_hundreds_are_those_of_playing_each_by_itself() -> None:
    keep = ["cp", "sequence_parallel", "dispatcher", "recompute", "overlap.shared_experts", "overlap.delay_wgrad"]
    check_the_best_of_playing_all(scenario("tiny", *SHORT), keep, least=200)


@pytest.mark.slow
def test_the_ten_best_of_20_000_are_those_of_playing_each_by_itself() -> None:
    check_the_best_of_playing_all(
        scenario("tiny", *SHORT), ["overlap.shared_experts", "overlap.delay_wgrad"], least=20_000
    )


class StopsAfter:
    """An executor that is interrupted after some chunks."""

    def __init__(self, chunks: int) -> None:
        self.left = chunks
        self.searched = 0

    def run(self, work: Callable[[Any], Any], chunks: Sequence[Any], prepare: Callable[[Any], Any]) -> Iterator[Any]:
        for chunk in chunks:
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            self.searched += 1
            yield work(prepare(chunk))


class Counts:
    """Runs chunks one after the other and counts those that have begun."""

    def __init__(self) -> None:
        self.begun = 0

    def run(self, work: Callable[[Any], Any], chunks: Sequence[Any], prepare: Callable[[Any], Any]) -> Iterator[Any]:
        for chunk in chunks:
            self.begun += 1
            yield work(prepare(chunk))


@pytest.mark.untraced
def test_progress_is_told_before_the_first_chunk_and_after_each() -> None:
    base, keep, free = small_space()
    keep.remove("cp")
    counts, told = Counts(), []
    found = search(
        base,
        SearchOptions(keep=keep, free=free),
        executor=counts,
        progress=lambda each: told.append((counts.begun, each)),
    )
    assert [begun for begun, _ in told] == list(range(counts.begun + 1))
    assert told[0][1].done == 0
    assert told[0][1].left_s == inf
    assert told[1][1].best_s < inf
    last = told[-1][1]
    assert (last.share_done, last.left_s, last.covered) == (1.0, 0.0, found.legal)


@pytest.mark.parametrize("name", [file.stem for file in sorted(SCENARIOS.glob("*.yaml"))])
def test_the_first_chunk_is_small_and_holds_the_scenarios_own_degrees(name: str) -> None:
    """The first answer waits for one chunk of a few thousand plans, however many there are."""
    space = space_of(scenario(name))
    first = chunks_of(space, space.judge(), Asked())[0]
    assert 0 < first.combinations <= FIRST_PLANS
    degrees = [first.tables.degrees.row(row) for row in range(len(first.tables.degrees))]
    own = [row for row in degrees if all(row[key] == getattr(space.base, key) for key in NEAREST)]
    assert own


@pytest.mark.parametrize(
    ("layers", "front", "back", "stages", "wanted"),
    [
        (126, 1, 1, 128, (0, *[1] * 126, 0)),
        (61, 0, 1, 31, (*[2] * 30, 1)),
        (8, 0, 2, 4, (2, 3, 3, 0)),
        (8, 1, 1, 5, (1, 2, 2, 2, 1)),
        (8, 0, 1, 9, (*[1] * 8, 0)),
        (8, 0, 0, 11, None),
        (8, 1, 1, 1, (8,)),
    ],
)
def test_layers_are_spread_with_the_ends_counted(
    layers: int, front: int, back: int, stages: int, wanted: tuple[int, ...] | None
) -> None:
    assert spread(layers, front, back, stages) == wanted


def test_chunks_hold_every_combination_once() -> None:
    space = space_of(scenario("tiny"))
    judge = space.judge()
    found = tables(space, judge)
    parts = chunks_of(space, judge, Asked())
    rows = [tuple(part.tables.degrees.row(row).values()) for part in parts for row in range(len(part.tables.degrees))]
    every = [tuple(found.degrees.row(row).values()) for row in range(len(found.degrees))]
    assert len(rows) == len(set(rows))
    assert set(rows) == set(every)


@pytest.mark.untraced
def test_a_killed_search_goes_on_and_finds_the_same(tmp_path: Path) -> None:
    base, keep, free = small_space()
    keep.remove("cp")
    whole = search(base, SearchOptions(keep=keep, free=free))
    first, second = StopsAfter(1), StopsAfter(-1)
    part = search(base, SearchOptions(keep=keep, free=free), executor=first, folder=tmp_path)
    assert not part.complete
    assert 0 < part.legal < whole.legal
    again = search(base, SearchOptions(keep=keep, free=free), executor=second, folder=tmp_path)
    assert again.complete
    assert (
        second.searched == len(chunks_of(space_of(base, keep, free), space_of(base, keep, free).judge(), Asked())) - 1
    )
    assert (again.legal, again.fitting) == (whole.legal, whole.fitting)
    assert [each.plan for each in again.plans] == [each.plan for each in whole.plans]


def test_files_of_another_search_are_not_read(tmp_path: Path) -> None:
    base, keep, free = small_space()
    search(base, SearchOptions(keep=keep, free=free, top=3), folder=tmp_path)
    other = StopsAfter(0)
    found = search(
        base, SearchOptions(keep=keep, free={"micro_batch_size": [4]}, top=3), folder=tmp_path, executor=other
    )
    assert found.legal == 0


@pytest.mark.untraced
def test_processes_find_the_same() -> None:
    base, keep, free = small_space()
    keep.remove("cp")
    serial = search(base, SearchOptions(keep=keep, free=free, top=5))
    spread = search(base, SearchOptions(keep=keep, free=free, top=5), executor=Processes(2))
    assert [each.plan for each in spread.plans] == [each.plan for each in serial.plans]
    assert (spread.legal, spread.fitting) == (serial.legal, serial.fitting)
    assert spread.front == serial.front


def test_limits_known_before_leave_out_only_what_cannot_win() -> None:
    base, keep, free = small_space()
    space = space_of(base, keep, free)
    chunk = chunks_of(space, space.judge(), Asked(top=3))[0]
    free_of_limits = search_chunk(chunk)
    reached = max(each.step_time_s for each in free_of_limits.best if 0 in each.contests)
    limited = search_chunk(replace(chunk, limits=tuple(reached for _ in chunk.limits)))
    best, again = ({each.plan for each in found.best if 0 in each.contests} for found in (free_of_limits, limited))
    assert again == best
    assert limited.played <= free_of_limits.played


def test_gains_front_and_ties_add_up() -> None:
    base, keep, free = small_space()
    found = search(base, SearchOptions(keep=keep, free=free, top=4))
    best = found.plans[0]
    assert all(gain.gain_s == pytest.approx(gain.kept_step_time_s - best.step_time_s) for gain in found.gains)
    assert all(gain.gain_s >= 0 for gain in found.gains)
    for second in found.plans[1:]:
        assert second.behind_s is not None
        assert sum(second.behind_s.values()) == pytest.approx(second.step_time_s - best.step_time_s)
        assert sum(behind(best, second).values()) == pytest.approx(sum(second.behind_s.values()))
    assert is_tied(best, replace(best, rank=2))
    assert not is_tied(best, replace(best, errors=best.errors * 2.0))
    times = [point.step_time_s for point in found.front]
    memories = [point.device_memory_bytes for point in found.front]
    assert times == sorted(times)
    assert memories == sorted(memories, reverse=True)


def test_a_plan_too_large_has_a_nearest_miss_and_remedies() -> None:
    base = scenario("kimi-k2-10240xh100", "cluster.gpus=64", "plan.global_batch_size=64")
    keep = ["recompute", "dispatcher", "cp", "micro_batch_size", "overlap.shared_experts"]
    found = search(base, SearchOptions(keep=keep, headroom_fraction=0.0))
    assert not found.plans
    assert found.fitting == 0
    assert found.nearest is not None
    assert not found.nearest.fits
    assert any(remedy.startswith("cluster.gpus") for remedy in found.remedies)


def test_headroom_is_left_free() -> None:
    base, keep, free = small_space()
    capacity = base.cluster.accelerator.memory_capacity_bytes
    tight = search(base, SearchOptions(keep=keep, free=free, top=1))
    share = 1 - tight.plans[0].device_memory_bytes / capacity
    wanted = share + 0.01
    found = search(base, SearchOptions(keep=keep, free=free, top=3, headroom_fraction=wanted))
    assert found.plans
    assert all(each.memory_free_bytes >= wanted * capacity for each in found.plans)
    assert found.plans[0].step_time_s > tight.plans[0].step_time_s


@pytest.mark.parametrize(
    ("keep", "free", "words"),
    [
        (["tq"], None, "did you mean"),
        ([], {"dp": None}, "follows from the other keys"),
        (["precision"], {"precision": None}, "is kept"),
        (["pp", "schedule"], {"tp": [3]}, "no plan is legal"),
    ],
)
def test_nonsense_is_told(keep: list[str], free: dict[str, Any] | None, words: str) -> None:
    with pytest.raises(InputError, match=words):
        search(scenario("tiny"), SearchOptions(keep=keep, free=free))


def test_lanes_split_where_plans_disagree() -> None:
    base = scenario("tiny").plan
    columns = NO_KEYS.crossed("tp", (1, 2, 4)).crossed("ep", (1, 8)).crossed("schedule", ("none", "1f1b"))

    def run(view: PlanView, rows: np.ndarray) -> Any:
        if view.schedule == "none":
            return view.tp * 10
        return view.tp + view.ep if view.tp > 1 else view.ep * 100

    found = together(base, columns, run).array(lambda value: value)
    rows = [columns.row(index) for index in range(len(columns))]
    assert found.tolist() == [run(plan_of(base, row), None) for row in rows]  # type: ignore[arg-type]
    with pytest.raises(Split):
        bool(np.array([1, 2]).view(Lanes) > 1)


def test_what_is_run_once_is_run_once_for_each_combination_it_reads() -> None:
    base = scenario("tiny").plan
    columns = NO_KEYS.crossed("tp", (1, 2)).crossed("cp", (1, 2, 4)).crossed("ep", (1, 2, 4, 8))
    calls = []

    def run(view: PlanView) -> int:
        calls.append((view.tp, view.ep))
        return int(view.tp * view.ep)

    found = one_by_one(base, columns, run)
    assert found.array(found.results).tolist() == [columns.row(i)["tp"] * columns.row(i)["ep"] for i in range(24)]
    assert len(set(calls)) == 8
    assert len(calls) < 24


def test_columns_number_their_combinations() -> None:
    first, index = compact(np.array([7, 3, 7, 9]), 10)
    assert first.tolist() == [1, 0, 3]
    assert index.tolist() == [1, 0, 1, 2]


@pytest.mark.untraced
def test_plans_that_the_hosts_memory_does_not_hold_are_not_among_the_best() -> None:
    """With the whole optimizer offloaded and almost no host memory, the search goes on to plans that move nothing."""
    keep = ["cp", "pp", "ep", "sequence_parallel", "dispatcher", "recompute", "overlap.shared_experts"]
    away = Offload(optimizer_fraction=1.0)
    for memory, offloaded in (("1 TB", True), ("10 GB", False)):
        base = scenario("tiny", f"cluster.node={{base: hgx-h100, host_memory: {memory}}}")
        found = search(
            base, SearchOptions(keep=keep, free={"offload": [away] if offloaded else [Offload(), away]}, top=3)
        )
        assert len(found.plans) == 3
        assert all(each.fits and (each.plan.offload == away) is offloaded for each in found.plans)
    none = search(base, SearchOptions(keep=keep, free={"offload": [away]}, top=3))
    assert not none.plans


@pytest.mark.untraced
def test_a_phases_plan_is_searched_by_its_name() -> None:
    phases = "run.phases=[{name: main}, {name: long, tokens: 1e8, seq_length: 8192, global_batch_size: 16}]"
    base = scenario("tiny", phases, WITHOUT_FAILURES)
    keep = [key for key in KEYS_SEARCHED if key not in ("cp", "micro_batch_size")]
    own, long = (search(base, SearchOptions(keep=keep, phase=name)) for name in (None, "long"))
    assert own.start is not None
    assert long.start is not None
    assert own.start.plan.global_batch_size == 64
    assert long.start.plan.global_batch_size == 16
    by_hand = scenario("tiny", "run.seq_length=8192", "plan.global_batch_size=16", "run.tokens=1e8", WITHOUT_FAILURES)
    assert long.plans[0].step_time_s == pytest.approx(
        search(by_hand, SearchOptions(keep=keep)).plans[0].step_time_s, rel=1e-12
    )
    with pytest.raises(InputError, match="did you mean"):
        search(base, SearchOptions(phase="lang"))
    with pytest.raises(InputError, match="no phases"):
        search(scenario("tiny"), SearchOptions(phase="long"))


def test_the_best_alone_is_the_best_of_all_that_is_asked() -> None:
    base, keep, free = small_space()
    whole, alone = (
        search(base, SearchOptions(keep=keep, free=free, top=1)),
        search(base, SearchOptions(keep=keep, free=free, top=1, only_best=True)),
    )
    assert alone.plans[0].plan == whole.plans[0].plan
    assert alone.played <= whole.played
    assert not alone.front
    assert not alone.gains


def test_steps_that_the_own_plan_reaches_are_known_from_the_start() -> None:
    base, keep, free = small_space()
    space = space_of(base, keep, free)
    own_s = simulate(base).step.step_time_s
    assert own_limits(space, Asked(top=1)) == pytest.approx([own_s] * Asked().contests(space), rel=1e-8)
    assert own_limits(space, Asked(top=2))[0] == inf
    assert set(own_limits(space_of(base, keep, {"micro_batch_size": [1]}), Asked(top=1))) == {inf}
    assert own_limits(space, Asked(top=1, headroom_fraction=0.99))[0] == inf


def test_layers_are_also_split_by_what_they_cost() -> None:
    """A head as dear as many layers: no even split puts so few of them beside it."""
    overrides = ["model.vocab=2000000", "plan.pp=4", "plan.ep=2", "plan.layout=auto"]
    base = load_scenario(SCENARIOS / "tiny.yaml", overrides)
    keep = [key for key in KEYS_SEARCHED if key not in ("schedule", "vpp")]
    even = replace(base.plan, layout=None)
    options = SearchOptions(keep=[*keep, "schedule", "vpp"], headroom_fraction=0.0)
    found = search(replace(base, plan=even), options)
    split = split_by_cost(base, even)
    assert split is not None
    assert split.layout == base.plan.layout
    assert found.plans[0].plan == split


def test_front_and_gains_agree_with_plans_whose_layers_are_split_by_cost() -> None:
    """Llama 3.1 8B in FP8: the head of 128,256 rows weighs more than a layer, so that the best plan splits by cost."""
    base = scenario("qwen3-235b-256xh100", "model=llama-3.1-8b", "cluster.gpus=16", "run.simulation={runs: 3}",
                    "plan={precision: fp8, micro_batch_size: 1, global_batch_size: 256}")  # fmt: skip
    keep = ["tp", "cp", "micro_batch_size", "recompute", "sharding"]
    found = search(base, SearchOptions(keep=keep, top=4))
    best, capacity = found.plans[0], base.cluster.accelerator.memory_capacity_bytes
    assert best.plan.layout == split_by_cost(base, replace(best.plan, layout=None)).layout  # type: ignore[union-attr]
    assert found.front[0].step_time_s <= best.step_time_s
    for each in found.plans:
        free = 1 - each.device_memory_bytes / capacity
        levels = [point for point in found.front if point.headroom_fraction <= free]
        assert all(point.step_time_s <= each.step_time_s for point in levels), plan_line(each.plan)
    (before_s,) = {round(gain.kept_step_time_s - gain.gain_s, 9) for gain in found.gains}
    assert before_s > best.step_time_s * (1 + 1e-6)
    against = f"against {format_seconds(before_s)}, the best before layers are split by cost"
    assert against in " ".join(search_text(base, found).split())
