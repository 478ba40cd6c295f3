"""Legality rules: a contract over all of them, and agreement with Megatron-Core's recorded verdicts."""

import json
from pathlib import Path

import pytest

from simulator.model.spec import Attention, DenseFFN, LatentAttention, Layer, LinearAttention, Mixer, Model, MoE
from simulator.plan.case import model_facts
from simulator.plan.rules import is_legal, violations
from simulator.plan.spec import Optimizer, Overlap, Plan, Recompute, Stack

DATA = Path(__file__).parent / "data"
LINES = [json.loads(line) for line in (DATA / "megatron_oracle.jsonl").read_text().splitlines()]
HEAD, ROWS = LINES[0], LINES[1:]
NESTED = {"overlap": Overlap, "optimizer": Optimizer, "recompute": Recompute, "stack": Stack}

# Plans that Megatron-Core's own start-up lets pass and this project refuses, by rule, with the reason.
STRICTER = {
    "all_to_all_heads_divide": "Transformer Engine refuses it when the first attention runs",
    "sequence_divides_tensor": "the first scatter along the sequence refuses it",
    "low_precision_is_aligned": "Transformer Engine refuses it when the first matrix product runs",
    "recompute_is_complete": "zero layers at a time never ends; no module is no recompute",
    "recompute_modules_are_known": "Megatron-Core has modules that are not modelled here",
    "shares_are_possible": "Megatron-Core reads a negative capacity as none",
    "layout_is_whole": "the model builder puts the loss on the last stage whatever the layout says",
}


def model_of(facts: dict) -> Model:
    """The corpus' model as this project writes it."""
    if facts.get("mla"):
        mixer: Mixer = LatentAttention(facts["heads"], 512, 256, 64, 32, 64)
    else:
        mixer = Attention(
            facts["heads"], facts["kv_heads"], facts["head_dim"], facts["head_dim"], out_bias=facts["bias"]
        )
    dense = DenseFFN(facts.get("ffn", 0), bias=facts["bias"])
    ffn = dense
    if "experts" in facts:
        groups = facts.get("groups", 1)
        ffn = MoE(
            facts["experts"],
            facts["top_k"],
            facts["expert_width"],
            shared_width=facts["shared_width"],
            groups=groups,
            group_top_k=facts.get("group_top_k", 1),
            bias=facts["bias"],
        )
    first = facts.get("dense_layers", 0)
    layers = [Layer(mixer, dense)] * first + [Layer(mixer, ffn)] * (facts["layers"] - first)
    if facts.get("gdn"):
        linear = LinearAttention("gdn", facts["key_heads"], facts["value_heads"], 64, 64, 4)
        layers = [Layer(mixer if i % 4 == 3 else linear, ffn) for i in range(facts["layers"])]
    return Model("test", facts["hidden"], facts["vocab"], tuple(layers), (Layer(mixer, ffn),) * facts["mtp"])


def plan_of(fields: dict) -> Plan:
    fields = dict(fields)
    for name, kind in NESTED.items():
        if name in fields:
            inner = {key: tuple(value) if isinstance(value, list) else value for key, value in fields[name].items()}
            fields[name] = kind(**inner)
    return Plan(**fields)


FACTS = {name: model_facts(model_of(facts)) for name, facts in HEAD["models"].items()}


@pytest.mark.parametrize("model", sorted(FACTS))
def test_verdicts_are_megatrons(model: str) -> None:
    wrong = []
    for row in ROWS:
        if row["model"] != model:
            continue
        asked = {"gpus": row["gpus"], "seq_length": row["seq_length"]}
        found = violations(FACTS[model], plan_of(row["plan"]), **asked)
        assert is_legal(FACTS[model], plan_of(row["plan"]), **asked) == (not found)
        broken = {violation.rule for violation in found}
        expected = not row["accepted"]
        if expected != bool(broken) and not (row["accepted"] and broken <= STRICTER.keys()):
            wrong.append((row["plan"], row["seq_length"], row["message"], sorted(broken)))
    assert not wrong, "\n".join(map(str, wrong))
