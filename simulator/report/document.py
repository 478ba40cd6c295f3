"""A prediction as one plain document: the contract behind `--json`, `--out` and every rendered report.

Its keys and units are described by schemas/evaluate.schema.json; nothing in a document depends on when or where it
was made, so that equal scenarios give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware.precisions import half_precision_peak
from hardware.wiring import injection_bytes_per_s
from simulator.model.flops import flops_per_token
from simulator.plain import plain
from simulator.predict.meters import metered_memory_bytes
from simulator.scenario.stack_section import changed_behaviours
from simulator.stack import release

if TYPE_CHECKING:
    from simulator.predict.prediction import Prediction
    from simulator.scenario.spec import Scenario
    from simulator.step.inequality import InequalityReport

# What may be published of a run and is predicted under the same name, and which of it depends on how FLOPs are counted.
COUNTS_FLOPS = ("model_flops_per_s_per_gpu", "mfu_fraction")
ANSWERS = ("step_time_s", "tokens_per_s_per_gpu", *COUNTS_FLOPS, "training_time_s", "peak_memory_bytes")
SCHEMAS = Path(__file__).parent / "schemas"


def evaluate_document(
    prediction: Prediction, ranks: InequalityReport | None = None, around: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The document of one evaluated scenario; `ranks` where every GPU was simulated by itself, `around` what was
    simulated around the step, by the scenario's section."""
    figures = [spec.name for spec in fields(prediction) if spec.name != "scenario"]
    return {
        "scenario": scenario_document(prediction.scenario),
        **{name: plain(getattr(prediction, name)) for name in figures},
        "against_published": against_published(prediction),
        "ranks": ranks_document(ranks, prediction.scenario) if ranks else None,
        **{name: plain(report) for name, report in (around or {}).items()},
    }


def ranks_document(found: InequalityReport, scenario: Scenario) -> dict[str, Any]:
    """Steps of every GPU by itself: how long they take, what each cause of inequality adds, who is waited for."""
    gpus, node_gpus, stage_gpus = scenario.plan.gpus, scenario.cluster.node.gpus, scenario.plan.gpus // scenario.plan.pp
    quantiles = {f"p{percent}": found.quantile_s(percent / 100) for percent in (10, 50, 90)}
    return {
        "gpus": gpus,
        "samples": len(found.step_times_s),
        "spread": "calibrated" if scenario.spread is None else "scenario",
        "ideal_step_time_s": found.ideal_s,
        "step_time_s": {"mean": found.mean_s, **quantiles},
        "tax_fraction": {**found.tax_fraction, "together": found.mean_s / found.ideal_s - 1},
        "wait_s": found.wait_s,
        "blamed": [
            {"rank": rank, "node": rank // node_gpus, "stage": rank // stage_gpus, "blamed_gpu_s": blamed_s}
            for rank, blamed_s in found.blamed
        ],
    }


def against_published(prediction: Prediction) -> list[dict[str, Any]]:
    """Each figure that is known, predicted beside it; FLOPs and MFU counted as the published ones were."""
    scenario = prediction.scenario
    published = scenario.published
    if published is None:
        return []
    convention = published.flops_convention or prediction.flops_convention
    recount = flops_per_token(scenario.model, scenario.run.seq_length, convention) / flops_per_token(
        scenario.model, scenario.run.seq_length, prediction.flops_convention
    )
    rows = []
    for quantity in ANSWERS:
        measured = getattr(published, quantity)
        if measured is None:
            continue
        factor = float(recount) if quantity in COUNTS_FLOPS else 1.0
        predicted = _predicted(prediction, quantity) * factor
        rows.append({"quantity": quantity, "measured": measured, "predicted": predicted,
                     "error_fraction": predicted / measured - 1})  # fmt: skip
    return rows


def _predicted(prediction: Prediction, quantity: str) -> float:
    """A predicted figure as the published one was read: memory by the same meter."""
    published = prediction.scenario.published
    if quantity == "peak_memory_bytes" and published is not None:
        return metered_memory_bytes(prediction, published.memory_meter)
    return float(getattr(prediction, quantity))


def scenario_document(scenario: Scenario) -> dict[str, Any]:
    """The scenario as understood: names and sizes of model and cluster, the whole plan, the run."""
    model, cluster = scenario.model, scenario.cluster
    return {
        "name": scenario.name,
        "question": scenario.question,
        "source": scenario.source,
        "model": {
            "name": model.name,
            "layers": len(model.layers),
            "mtp_layers": len(model.mtp),
            "hidden": model.hidden,
            "vocab": model.vocab,
        },
        "cluster": {
            "name": cluster.name,
            "gpus": cluster.gpus,
            "nodes": cluster.nodes,
            "gpus_per_node": cluster.node.gpus,
            "node": cluster.node.name,
            "accelerator": cluster.accelerator.name,
            "fabric": cluster.fabric.name,
            "peak_flops_per_s": half_precision_peak(cluster.accelerator.peak_flops_per_s),
            "scale_up_gpus": cluster.node.scale_up.domain_gpus,
            "scale_up_bytes_per_s": cluster.node.scale_up.bandwidth_bytes_per_s,
            "scale_out_bytes_per_s": injection_bytes_per_s(cluster.node, cluster.fabric),
        },
        "plan": {**plain(scenario.plan), "microbatches": scenario.plan.microbatches},
        "stack": stack_document(scenario),
        "run": {"seq_length": scenario.run.seq_length, "tokens": scenario.run.tokens},
        "published": plain(scenario.published),
    }


def stack_document(scenario: Scenario) -> dict[str, Any]:
    """The software stack that the prediction stands on: the release, what was changed of it, and of the plan by it;
    `fp8_means`: the recipe that a scenario's plain fp8 stands for."""
    stack = scenario.plan.stack
    base = release(stack.name)
    return {
        "name": base.name,
        "title": base.title,
        "named": scenario.stack_choice == "named",
        "choice": scenario.stack_choice,
        "changed": plain(changed_behaviours(stack, base)),
        "settings": {key: value for key, value in plain(scenario.stack_settings).items() if key != "precision"},
        "fp8_means": scenario.stack_settings.get("precision"),
    }


def documented_verbs() -> list[str]:
    """The verbs whose documents have a schema."""
    return sorted(path.name.removesuffix(".schema.json") for path in SCHEMAS.glob("*.schema.json"))


def document_schema(verb: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a verb's document."""
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{verb}.schema.json").read_text(encoding="utf-8"))
    return schema
