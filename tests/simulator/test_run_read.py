"""The `run` section is read with its units, its presets, and all its problems at once."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from hardware.problems import InputError, Place
from hardware.sections import Section
from simulator.run.budget import Budget, read_budget
from simulator.run.durations import Duration
from simulator.run.fault_timeline import draw
from simulator.run.faults import CRASH, Machines, mean_time_between_s, settled
from simulator.run.job_facts import JobFacts, run_spec
from simulator.run.montecarlo import simulate
from simulator.run.read import KEYS, PARTS, read_run, run_schema
from simulator.run.read_failures import failure_model, preset, presets
from simulator.run.spares import best_spares, nodes_away, spares_needed
from simulator.run.specs import Power, Segment

FACTS = JobFacts(
    segments=(Segment("main", 1e11, 4e6, 8.0),),
    job_nodes=128,
    gpus_per_node=8,
    replicas=16,
    dp=64,
    state_bytes=1e13,
    storage_write_bytes_per_s=2e11,
    storage_read_bytes_per_s=2e11,
    host_bytes_per_s=5e10,
    nic_bytes_per_s=5e10,
    power=Power(1000.0, 300.0, 1.2),
    price_usd_per_gpu_hour=2.0,
)


def test_empty_section_takes_the_defaults() -> None:
    policies = read_run({"tokens": "15.5T", "seq_length": 4096})
    assert policies.checkpoint.policy == "async"
    assert policies.failures == preset("llama-3")
    spec = run_spec(policies, FACTS)
    assert spec.recovery.hot_spares == best_spares(preset("llama-3"), 128, 8, spec.work_s)
    result = simulate(spec)
    assert result.finishes
    assert result.cost_usd is not None
    assert set(result.to_dict()) >= {"finish_s", "goodput_fraction", "lost_s", "cost_usd", "energy_j"}


def test_everything_given() -> None:
    policies = read_run(
        {
            "checkpoint": {"policy": "in-memory", "every": "30 min", "fast_every": "1 min", "peer_distance": 8},
            "failures": {"base": "rsc-1", "rate_multiplier": 0.5, "lemons": {"fraction": 0.01, "multiplier": 20}},
            "spares": {"hot": 16, "cold": 32, "hot_swap": "90 s", "cold_start": "20 min"},
            "recovery": {"when_short": "shrink", "patience": "10 min", "regrow": "at-once", "evict_after": 3},
            "restart": {"process_start": "2 min", "init_per_gpu": "3 ms", "warm_up": "30 s"},
            "maintenance": {"every": "7 d", "lasts": "1 h"},
            "prices": {
                "capital_per_gpu": "30 kUSD",
                "life": "1461 d",
                "electricity": "80 USD/MWh",
                "carbon": "380 g/kWh",
            },
            "simulation": {"runs": 20, "seed": 7, "workers": 1, "give_up_below": "5%"},
        }
    )
    assert policies.checkpoint.fast_every_s == 60.0
    assert (policies.recovery.hot_spares, policies.recovery.cold_spares) == (16, 32)
    assert policies.recovery.maintenance_every_s == 7 * 86400
    assert policies.failures.lemon_multiplier == 20
    assert mean_time_between_s(policies.failures, 8) == pytest.approx(2 * 1000 / 6.5 * 86400)
    assert policies.prices is not None
    assert policies.prices.carbon_kg_per_kwh == pytest.approx(0.38)
    assert policies.prices.electricity_usd_per_kwh == pytest.approx(0.08)
    result = simulate(run_spec(policies, FACTS))
    assert result.carbon_kg == pytest.approx(result.energy_j / 3.6e6 * 0.38)


def test_all_problems_at_once() -> None:
    with pytest.raises(InputError) as error:
        read_run(
            {
                "checkpoint": {"policy": "inmemory", "every": "3"},
                "failures": "lama-3",
                "spares": {"hot": -1, "warm": 3},
                "recovery": {"evict_slow": "yes"},
                "simulation": {"runs": 1.5, "give_up_below": 2},
                "prices": {"carbon": "2 q"},
            },
            Place("s.yaml", "run"),
        )
    keys = {p.key for p in error.value.problems}
    assert keys >= {
        "run.checkpoint.policy",
        "run.checkpoint.every",
        "run.failures",
        "run.spares.hot",
        "run.spares.warm",
        "run.recovery.evict_slow",
        "run.simulation.runs",
        "run.simulation.give_up_below",
        "run.prices.carbon",
    }


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"checkpoint": {"policy": "sync", "fast_every": "1 min"}}, "belongs to policy in-memory or tiered"),
        ({"failures": "rsc-1", "fault_log": "log.csv"}, "exclude each other"),
        ({"failures": {"exposure": {"gpus": 8, "time": "1 d"}, "classes": {"a": {"count": 1}}}}, "kind: is missing"),
        (
            {"failures": {"exposure": {"gpus": 8, "time": "1 d"}, "classes": {"a": {"count": 1, "kind": "slow"}}}},
            "lasts",
        ),
        ({"failures": {"exposure": {"gpus": 8}, "classes": {}}}, "exposure.time: is missing"),
        ({"failures": {"base": "llama-3", "lemons": {"fraction": 1.5, "multiplier": 2}}}, "below 1"),
        ({"failures": 3}, "must be a mapping"),
        ({"spares": 3}, "must be a mapping"),
    ],
)
def test_contradictions(run: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_run(run)


@pytest.mark.parametrize("name", presets())
def test_every_preset_is_whole(name: str) -> None:
    """Contract of a shipped failure model: a source, a finite rate, sources beside borrowed values, and it draws."""
    model = preset(name)
    assert model.source
    assert model.sources
    assert 0.1 * 86400 < mean_time_between_s(model, 1024) < 1000 * 86400
    timeline = draw(model, Machines(1024, 8, 8), (0.0, 30 * 86400.0), *_luck())
    assert len(timeline) > 10
    assert (timeline.kind == CRASH).any()


def _luck() -> tuple:
    import numpy as np

    return np.empty(0, int), np.random.default_rng(0)


def test_durations_in_all_forms(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "exposure: {gpus: 8, time: 100 d}\nclasses:\n"
        "  a: {count: 1, kind: crash, detect: 30 s, repair: {mean: 1 h}}\n"
        "  b: {count: 1, kind: hang, detect: {median: 1 h, mean: 2 h}, repair: none}\n"
        "  c: {count: 1, kind: crash, repair: {quantiles: {0: 0 s, 0.5: 1 h, 1: 3 h}}}\n"
    )
    a, b, c = failure_model(str(path)).classes
    assert a.detect == Duration("fixed", 30.0)
    assert a.repair == Duration("exponential", 3600.0)
    assert b.detect.mean_s() == pytest.approx(7200.0)
    assert b.repair is None
    assert c.repair is not None
    assert c.repair.mean_s() == pytest.approx(0.5 * 1800 + 0.5 * 7200)


@pytest.mark.parametrize(
    "points", ["0: 0 s, 0.5: 2 h, 1: 1 h", "0: 0 s, 0.7: 1 h, 0.5: 2 h, 1: 3 h", "0: 1 h, 0.5: 2 h"]
)
def test_quantiles_rise_in_both(points: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "exposure: {gpus: 8, time: 100 d}\nclasses:\n"
        f"  a: {{count: 1, kind: crash, repair: {{quantiles: {{{points}}}}}}}\n"
    )
    with pytest.raises(InputError, match="quantiles must rise from probability 0 to 1"):
        failure_model(str(path))


@pytest.mark.parametrize(
    ("kind", "words"),
    [("slow, lasts: 1 h", None), ("crash", "links: belongs to kind slow, not crash"), ("slow", "lasts: is missing")],
)
def test_only_slow_faults_leave_a_share_of_links(kind: str, words: str | None, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"exposure: {{gpus: 8, time: 100 d}}\nclasses:\n  a: {{count: 1, links: 0.5, kind: {kind}}}\n")
    if words is None:
        assert failure_model(str(path)).classes[0].link_fraction == 0.5
    else:
        with pytest.raises(InputError, match=words):
            failure_model(str(path))


def test_spares_follow_poisson() -> None:
    """148 + ... nodes' faults a day times 5.54 days; the quantile by summing Poisson's law."""
    from scipy.stats import poisson

    known = replace(preset("llama-3"), rate_sigma=0.0)
    mean = nodes_away(known, 16384)
    assert spares_needed(known, 16384) == poisson.ppf(0.99, mean)
    assert spares_needed(known, 16384, 0.5) == poisson.ppf(0.5, mean)


def test_an_unknown_rate_needs_spares_for_its_worse_half() -> None:
    """Poisson's law averaged over the log-normal rate, by adaptive quadrature instead of equally likely rates."""
    from scipy.integrate import quad
    from scipy.stats import norm, poisson

    model = preset("llama-3")
    mean, needed = nodes_away(model, 4096), spares_needed(model, 4096)

    def enough(count: int) -> float:
        def weighted(normal: float) -> float:
            return float(poisson.cdf(count, mean * math.exp(model.rate_sigma * normal)) * norm.pdf(normal))

        return quad(weighted, -8, 8)[0]

    assert enough(needed + 1) > 0.9895
    assert enough(needed - 1) < 0.9905
    assert needed > spares_needed(replace(model, rate_sigma=0.0), 4096)


@pytest.mark.parametrize(
    ("phases", "words"),
    [
        ([{"name": "a", "tokens": "1T"}], "exactly one without tokens"),
        ([{"name": "a", "tokens": "3T"}, {"name": "b"}], "nothing is left"),
        ([{"name": "a", "batch": 3}], "phases.0.batch"),
        ({"name": "a"}, "must be a list"),
    ],
)
def test_phases_that_do_not_add_up(phases: object, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_run({"tokens": "2T", "phases": phases})


def test_speeds_that_were_simulated_replace_the_models() -> None:

    policies = read_run({"failures": "bytedance"})
    spec = run_spec(policies, replace(FACTS, slow_speed={"MFU decline": 0.5}, assumptions=("no storage was given",)))
    assert {c.name: c.speed for c in spec.failures.classes}["MFU decline"] == 0.5
    assert "no storage was given" in simulate(spec).warnings


def test_what_only_shows_with_the_job_is_told_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "start_day,end_day,node,level,class,description\n1,2,500,Hardware Failure,GPU,x\n"
    )
    at = Place(str(tmp_path / "scenario.yaml"), "run")
    data = {"fault_log": "log.csv", "recovery": {"min_replicas": 17}, "spares": {"hot": 2}}
    with pytest.raises(InputError) as error:
        run_spec(read_run(data, at), FACTS)
    assert [p.key for p in error.value.problems] == ["run.recovery.min_replicas", "run.fault_log"]


# -- the table of keys -------------------------------------------------------------------------------------------


def properties(schema: object, path: str = "run") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every key of a JSON Schema with its own schema, below `anyOf`, `items` and free names too."""
    if not isinstance(schema, dict):
        return
    for key, below in schema.get("properties", {}).items():
        yield f"{path}.{key}", below
        yield from properties(below, f"{path}.{key}")
    for below in (*schema.get("anyOf", ()), schema.get("items"), schema.get("additionalProperties")):
        yield from properties(below, path)


def test_every_key_of_the_run_has_a_type_a_description_and_an_example() -> None:
    keys = dict(properties(run_schema()))
    assert {"run.tokens", "run.checkpoint.every", "run.failures.mtbf", "run.failures.classes.kind"} <= set(keys)
    assert len(keys) > 100
    for key, schema in keys.items():
        assert set(schema) & {"type", "enum", "anyOf"}, key
        assert len(schema["description"].split()) > 1, key
        assert schema["examples"], key


def test_the_schema_knows_every_key_that_is_read() -> None:
    assert set(run_schema()["properties"]) == {*KEYS, *Budget.__slots__}
    jsonschema.Draft202012Validator.check_schema(run_schema())


@pytest.mark.parametrize("key", sorted(PARTS))
def test_examples_and_defaults_of_the_schema_are_read(key: str) -> None:
    """Each example alone, and all defaults together, give no problem and pass the schema."""
    schema = run_schema()["properties"][key]
    defaults = {name: each["default"] for name, each in schema["properties"].items() if "default" in each}
    needed = {name: schema["properties"][name]["examples"][0] for name in schema["required"]}
    priced = {"gpu_hour": "2 USD/h"} if key == "prices" else {}
    paused = {"tokens": "1M"} if key == "evaluation" else {}
    cases = [*schema["examples"], {**defaults, **needed, **priced, **paused}]
    for name, each in schema["properties"].items():
        policy = {"fast_every": "tiered"}.get(name)
        rest = {"policy": policy} if policy else {}
        owned = {"capital_per_gpu": "1 USD"} if key == "prices" and name not in ("gpu_hour", "capital_per_gpu") else {}
        over = {} if name in ("tokens", "lasts") else paused
        cases.append({**needed, **rest, **owned, **over, name: each["examples"][0]})
    for case in cases:
        jsonschema.validate({"seq_length": 1, "tokens": 1, key: case}, run_schema())
        read_run({key: case})


@pytest.mark.parametrize("what", run_schema()["properties"]["failures"]["examples"])
def test_examples_of_failures_are_read(what: Any) -> None:
    jsonschema.validate({"seq_length": 1, "tokens": 1, "failures": what}, run_schema())
    assert failure_model(what).classes


@pytest.mark.parametrize(
    ("run", "words"),
    [
        ({"spares": {"hot": 2_000_000}}, "must be at most 1,000,000, not 2e"),
        ({"spares": {"hot": 1.5}}, "must be a whole number, not 1.5"),
        ({"simulation": {"workers": 5000}}, "must be at most 1,024"),
        ({"checkpoint": {"every": "5 min", "least_every": "10 min"}}, "bounds an interval that is left open"),
        ({"simulation": {"give_up_below": "100%"}}, "must be below 1, not 1"),
        ({"failures": {"base": "rsc-1", "bursts": {"mean": 11, "window": "1 h"}}}, "must be at most 10, not 11"),
        ({"failures": {"mtbf": "3 h", "rate_multiplier": 2}}, "exclude each other"),
        ({"failures": {"base": "none", "mtbf": "3 h"}}, "needs a class of kind crash or hang"),
        ({"recovery": {"when_short": "shirnk"}}, "did you mean shrink"),
        ({"checkpoint": {"policy": "sometimes"}}, "not known"),
        ({"checkpoint": {"policy": "sync", "overhead": "1 s"}}, "waits for the whole write"),
        (
            {"failures": {"exposure": {"gpus": 8, "time": "1 d"}, "classes": {"a": {"kind": "crush", "count": 1}}}},
            "crash",
        ),
    ],
)
def test_values_out_of_range_and_unknown_words(run: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_run(run)


# -- rates from a mean time between failures ----------------------------------------------------------------------


def test_the_mtbf_of_the_job_sets_all_rates() -> None:
    spec = run_spec(read_run({"failures": {"mtbf": "3 h"}}), FACTS)
    assert mean_time_between_s(spec.failures, 1024) == pytest.approx(3 * 3600.0)
    assert {fault.name for fault in spec.failures.classes} == {fault.name for fault in preset("llama-3").classes}


def test_the_mtbf_of_a_node_is_shared_by_the_job() -> None:
    spec = run_spec(read_run({"failures": {"base": "rsc-1", "node_mtbf": "5 years"}}), FACTS)
    assert mean_time_between_s(spec.failures, 1024) == pytest.approx(5 * 365.25 * 86400 / 128)


def test_a_multiplier_on_a_base_with_an_mtbf_divides_it(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("base: rsc-1\nmtbf: 4 h\n")
    model = failure_model({"base": str(path), "rate_multiplier": 2})
    assert mean_time_between_s(settled(model, 128, 8), 1024) == pytest.approx(2 * 3600.0)


# -- detection ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "seconds"), [("crash", 30.0), ("hang", 600.0), ("slow", 600.0), ("corruption", 600.0), ("planned", 0.0)]
)
def test_faults_take_time_to_be_noticed(kind: str, seconds: float) -> None:
    slow = {"speed": 0.5, "lasts": "1 d"} if kind == "slow" else {}
    data = {"exposure": {"gpus": 8, "time": "1 d"}, "classes": {"a": {"kind": kind, "count": 1, **slow}}}
    assert failure_model(data).classes[0].detect == Duration("fixed", seconds)


def test_a_slow_part_without_detection_slows_the_job_before_it_is_evicted() -> None:
    """Ten minutes at half speed for each eviction, which then costs a restart."""
    fault = {"kind": "slow", "count": 10, "speed": 0.5, "lasts": "2 d", "repair": "1 min"}
    data = {"failures": {"exposure": {"gpus": 1024, "time": "1 d"}, "classes": {"slow": fault}}, "spares": {"hot": 8}}
    result = simulate(run_spec(read_run(data), FACTS))
    evictions = result.interruptions["slow"]
    assert evictions > 5
    assert result.lost_s["slow"] > 0.3 * evictions * 600.0 / 2


def test_no_fault_is_known_for_nothing() -> None:
    data = {"exposure": {"gpus": 8, "time": "1 d"}, "classes": {"a": {"kind": "hang", "count": 1, "detect": "none"}}}
    with pytest.raises(InputError, match="leave it out for the default"):
        failure_model(data)


# -- how much is trained ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "tokens"),
    [({"tokens": "1T"}, 1e12), ({"steps": 1000}, 1000 * 64 * 2048), ({"samples": 1000}, 1000 * 2048)],
)
def test_the_amount_in_tokens(amount: dict[str, Any], tokens: float) -> None:
    budget = read_budget(Section({"seq_length": 2048, **amount}, Place("s.yaml", "run")))
    assert budget.tokens_in_all(64) == tokens


def test_days_hold_whole_steps_at_full_speed() -> None:
    budget = Budget(2048, days=2.0)
    assert math.isnan(budget.tokens_in_all(64))
    assert budget.tokens_in_all(64, 7.0) == math.floor(2 * 86400 / 7) * 64 * 2048


@pytest.mark.parametrize(
    ("amount", "words"),
    [
        ({}, "tokens, steps, samples or days"),
        ({"tokens": "1T", "days": 3}, "exclude each other"),
        ({"steps": 5, "phases": []}, "cannot be shared out among phases"),
        ({"steps": 0.5}, "must be a whole number"),
    ],
)
def test_one_amount_and_one_only(amount: dict[str, Any], words: str) -> None:
    section = Section({"seq_length": 2048, **amount}, Place("s.yaml", "run"))
    read_budget(section)
    with pytest.raises(InputError, match=words):
        section.raise_problems()
