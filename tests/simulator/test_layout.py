"""Layers on stages, against Megatron-Core's recorded answers, published layouts and identities."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.model.spec import Attention, DenseFFN, Layer, Model
from simulator.plans.layout import (
    format_layout,
    layer_counts,
    parse_layout,
    ranks_of_stages,
    stage_count,
    stages,
    stages_of_ranks,
)
from simulator.plans.spec import Plan

DATA = Path(__file__).parent / "data"
SPLITS = [json.loads(line) for line in (DATA / "megatron_oracle.splits.jsonl").read_text().splitlines()[1:]]
ORACLE = [json.loads(line) for line in (DATA / "megatron_oracle.layouts.jsonl").read_text().splitlines()[1:]]


def model_of(layers: int, mtp: int = 0) -> Model:
    layer = Layer(Attention(8, 8, 64, 64), DenseFFN(1024))
    return Model("test", 512, 1000, (layer,) * layers, (layer,) * mtp)


def plan_of(**fields: object) -> Plan:
    return Plan(dp=1, micro_batch_size=1, global_batch_size=64, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("row", ORACLE, ids=lambda row: row["layout"])
def test_layout_strings_parse_as_megatron_parses_them(row: dict) -> None:
    if row["stages"] is None:
        with pytest.raises(ValueError, match="layout"):
            parse_layout(row["layout"])
    else:
        assert list(parse_layout(row["layout"])) == row["stages"]


def test_splits_are_megatrons() -> None:
    """Counts and offsets of every virtual stage, for even splits, pinned ends and counted embedding or loss."""
    for row in SPLITS:
        schedule = "interleaved" if row["plan"].get("vpp", 1) > 1 else "1f1b"
        held = stages(model_of(row["layers"]), plan_of(schedule=schedule, **row["plan"]))
        assert [stage.layer_count for stage in held] == row["layer_counts"], row
        assert [stage.first_layer for stage in held] == row["first_layers"], row


def test_deepseek_v3_recipe() -> None:
    """The published H100 recipe: 61 layers and one MTP module on 8 ranks, 4 chunks each."""
    plan = plan_of(pp=8, vpp=4, schedule="interleaved", layout="Et|(tt|)*30mL")
    held = stages(model_of(61, 1), plan)
    assert len(held) == 32
    assert held[0].symbols == "Et"
    assert held[31].symbols == "mL"
    assert list(held[1].layers) == [1, 2]
    assert list(held[30].layers) == [59, 60]
    assert format_layout(tuple(stage.symbols for stage in held)) == plan.layout


@given(st.lists(st.text("EtmL", max_size=12), min_size=1, max_size=40))
def test_format_and_parse_are_inverse(symbols: list[str]) -> None:
    assert parse_layout(format_layout(tuple(symbols))) == tuple(symbols)


def test_layout_bomb_is_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        parse_layout("E(t*999999|)*999999L")


def test_even_interleaved_stages_loop_over_ranks() -> None:
    plan = plan_of(pp=2, vpp=2, schedule="interleaved")
    held = stages(model_of(8), plan)
    assert [list(stage.layers) for stage in held] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert stages_of_ranks(plan) == ((0, 2), (1, 3))
    assert [stage.embedding for stage in held] == [True, False, False, False]
    assert [stage.head for stage in held] == [False, False, False, True]


@pytest.mark.parametrize(
    ("fields", "layers", "expected"),
    [
        ({"pp": 4, "first_stage_layers": 2}, 14, (2, 4, 4, 4)),
        ({"pp": 4, "last_stage_layers": 1}, 13, (4, 4, 4, 1)),
        ({"pp": 4, "first_stage_layers": 3, "last_stage_layers": 1}, 12, (3, 4, 4, 1)),
        ({"pp": 2, "first_stage_layers": 5, "last_stage_layers": 3}, 8, (5, 3)),
        ({"pp": 4, "vpp": 2, "first_stage_layers": 2}, 14, (1, 2, 2, 2, 1, 2, 2, 2)),
        ({"pp": 4, "account_for_embedding": True}, 15, (3, 4, 4, 4)),
        ({"pp": 4, "account_for_embedding": True, "account_for_loss": True}, 14, (3, 4, 4, 3)),
        ({"pp": 2, "vpp": 2, "account_for_loss": True}, 7, (2, 2, 2, 1)),
        ({"pp": 4, "schedule": "dualpipe"}, 14, (3, 4, 4, 3)),
        ({"pp": 2, "schedule": "zb-v", "vpp": 2}, 8, (2, 2, 2, 2)),
    ],
)
def test_uneven_splits(fields: dict, layers: int, expected: tuple[int, ...]) -> None:
    assert layer_counts(layers, 0, plan_of(**fields)) == expected


def test_deepseek_v3_on_dualpipe_counts_mtp_as_a_layer_of_the_last_stage() -> None:
    plan = plan_of(pp=16, schedule="dualpipe")
    held = stages(model_of(61, 1), plan)
    assert [stage.layer_count for stage in held] == [3, *[4] * 14, 2]
    assert (held[-1].mtp, held[-1].head) == (1, True)
    assert ranks_of_stages(plan)[0] == (0, 15)


@given(st.integers(1, 200), st.integers(0, 3), st.integers(1, 32), st.sampled_from(["dualpipe", "zb-v", "zb-h1"]))
def test_balanced_split_keeps_every_layer(layers: int, mtp: int, pp: int, schedule: str) -> None:
    plan = plan_of(pp=pp, schedule=schedule, vpp=2 if schedule == "zb-v" else 1)
    counts = layer_counts(layers, mtp, plan)
    assert len(counts) == stage_count(plan)
    assert sum(counts) == layers
    assert max(counts[:-1], default=0) - min(counts[:-1], default=0) <= 1


@pytest.mark.parametrize("schedule", ["1f1b", "interleaved", "zb-v", "dualpipe-v", "dualpipe"])
def test_every_stage_is_held_and_ranks_are_inverse(schedule: str) -> None:
    plan = plan_of(pp=4, vpp=1 if schedule == "1f1b" else 2, schedule=schedule)
    holders = ranks_of_stages(plan)
    copies = 2 if schedule == "dualpipe" else 1
    assert all(len(ranks) == copies for ranks in holders)
    for rank, held in enumerate(stages_of_ranks(plan)):
        assert all(rank in holders[stage] for stage in held)


def test_v_shape_brings_both_ends_to_rank_zero() -> None:
    assert stages_of_ranks(plan_of(pp=3, vpp=2, schedule="zb-v")) == ((0, 5), (1, 4), (2, 3))


@pytest.mark.parametrize(
    ("fields", "layers", "match"),
    [
        ({"pp": 4, "first_stage_layers": 3}, 14, "middle"),
        ({"pp": 1, "first_stage_layers": 3, "last_stage_layers": 3}, 6, "middle"),
        ({"pp": 2, "vpp": 2, "first_stage_layers": 3}, 6, "chunks"),
        ({"pp": 4, "account_for_loss": True}, 12, "do not divide"),
        ({"pp": 4, "layout": "Et|tL"}, 2, "stages"),
        ({"pp": 2, "layout": "Et|tL"}, 5, "layers"),
    ],
)
def test_contradictions_are_named(fields: dict, layers: int, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        stages(model_of(layers), plan_of(**fields))
