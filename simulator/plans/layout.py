"""Which layers stand on which pipeline stage: even and uneven splits, layout strings, ranks of a stage.

A stage is a virtual stage: with `vpp` chunks per rank there are pp x vpp of them, numbered in the order a
micro-batch visits them (chunk x pp + rank in Megatron-Core).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby

from simulator.model.spec import Model
from simulator.plans.spec import Plan
from simulator.schedules import SCHEDULES

SYMBOLS = "EtmL"
_LONGEST_LAYOUT = 100_000
_GROUP = re.compile(r"\(([^()]+)\)\*(\d{1,6})")
_UNIT = re.compile(r"([^()*])\*(\d{1,6})")


@dataclass(frozen=True, slots=True)
class StageLayers:
    """What one virtual stage holds: decoder layers [first_layer, first_layer + layer_count), `mtp` modules, ends."""

    index: int
    first_layer: int
    layer_count: int
    embedding: bool
    mtp: int
    head: bool

    @property
    def layers(self) -> range:
        return range(self.first_layer, self.first_layer + self.layer_count)

    @property
    def symbols(self) -> str:
        """The stage as Megatron writes it, for example "Ettt" or "ttmL"."""
        return "E" * self.embedding + "t" * self.layer_count + "m" * self.mtp + "L" * self.head


def schedule_name(plan: Plan) -> str:
    """The order of slots: with overlapped expert traffic Megatron's schedules pair forwards and backwards."""
    paired_as = SCHEDULES[plan.schedule].paired_as
    return paired_as if plan.is_paired and paired_as is not None else plan.schedule


def chunks_per_rank(plan: Plan) -> int:
    """Model chunks that one rank holds: two where the pipeline folds back or runs both ways, else `vpp`."""
    return SCHEDULES[plan.schedule].placement.chunks_per_rank(plan.vpp)


def stage_count(plan: Plan) -> int:
    """Virtual stages of the model; a mirrored pipeline holds each of its `pp` stages twice."""
    return SCHEDULES[plan.schedule].placement.stage_count(plan.pp, plan.vpp)


def stages_of_ranks(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """For each pipeline rank the stages it holds, by chunk."""
    return SCHEDULES[plan.schedule].placement.of_ranks(plan.pp, plan.vpp)


def ranks_of_stages(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """For each stage the pipeline ranks that hold it: one, or the two of a mirrored pipeline."""
    held = stages_of_ranks(plan)
    return tuple(
        tuple(rank for rank, stages_held in enumerate(held) if stage in stages_held)
        for stage in range(stage_count(plan))
    )


def routes(plan: Plan) -> tuple[tuple[int, ...], ...]:
    """The pipeline ranks that a micro-batch visits, stage by stage: one route, or one for each copy of the stages."""
    by_stage: list[dict[int, int]] = [{} for _ in range(SCHEDULES[plan.schedule].placement.copies)]
    for rank, held in enumerate(stages_of_ranks(plan)):
        for chunk, stage in enumerate(held):
            by_stage[chunk % len(by_stage)][stage] = rank
    return tuple(tuple(rank_of[stage] for stage in sorted(rank_of)) for rank_of in by_stage)


def parse_layout(text: str) -> tuple[str, ...]:
    """Expands a Megatron layout string into one string of symbols per stage.

    `E` embedding, `t` decoder layer, `m` MTP module, `L` loss, `|` next stage, `x*n` and `(...)*n` repeat,
    commas mean nothing. Raises ValueError for any other character or an absurd length.
    """
    expanded = _expand(_expand(text.replace(",", ""), _GROUP), _UNIT)
    unknown = sorted(set(expanded) - set(SYMBOLS) - {"|"})
    if unknown:
        raise ValueError(f"layout {text[:80]!r}: {', '.join(map(repr, unknown))} is none of E t m L | (...)*n")
    return tuple(expanded.split("|"))


def _expand(text: str, pattern: re.Pattern[str]) -> str:
    longest = len(text) + sum(len(m[1]) * int(m[2]) for m in pattern.finditer(text))
    if longest > _LONGEST_LAYOUT:
        raise ValueError(f"layout {text[:80]!r}: expands to more than {_LONGEST_LAYOUT} symbols")
    return pattern.sub(lambda match: match[1] * int(match[2]), text)


def format_layout(stages: tuple[str, ...]) -> str:
    """The shortest usual spelling of stages given as symbols; `parse_layout` reads it back."""
    parts = []
    for symbols, run in groupby(stages[:-1]):
        count, spelled = len(list(run)), _spell(symbols) + "|"
        parts.append(f"({spelled})*{count}" if count > 1 else spelled)
    return "".join(parts) + _spell(stages[-1])


def _spell(symbols: str) -> str:
    runs = ((symbol, len(list(run))) for symbol, run in groupby(symbols))
    return "".join(f"{symbol}*{count}" if count > 3 else symbol * count for symbol, count in runs)


def layer_counts(layers: int, mtp: int, plan: Plan) -> tuple[int, ...]:
    """Decoder layers of each virtual stage, in stage order.

    Layers that do not divide evenly are spread so that stages differ by at most one layer, MTP modules counted as
    layers of the last stage; Megatron-Core refuses such a plan (see rules). Raises ValueError where the plan's own
    numbers contradict each other.
    """
    if plan.layout is not None:
        return tuple(symbols.count("t") for symbols in parse_layout(plan.layout))
    stages = stage_count(plan)
    chunks = stages // plan.pp
    if plan.first_stage_layers is not None or plan.last_stage_layers is not None:
        per_rank = _pinned_ends(layers, plan)
    elif plan.account_for_embedding or plan.account_for_loss:
        total = layers + plan.account_for_embedding + plan.account_for_loss
        if total % stages:
            raise ValueError(f"{total} layers, embedding and loss counted, do not divide into {stages} stages")
        counts = [total // stages] * stages
        counts[0] -= plan.account_for_embedding
        counts[-1] -= plan.account_for_loss
        return tuple(counts)
    elif layers % stages:
        return balanced(layers, mtp, stages)
    else:
        return (layers // stages,) * stages
    if any(count % chunks for count in per_rank):
        raise ValueError(f"layers by pipeline rank {per_rank} do not divide into {chunks} chunks each")
    first_route = routes(plan)[0]
    return tuple(per_rank[rank] // chunks for rank in first_route)


def _pinned_ends(layers: int, plan: Plan) -> list[int]:
    """Layers by pipeline rank where the first and/or last rank's share is given."""
    middle_layers = layers - (plan.first_stage_layers or 0) - (plan.last_stage_layers or 0)
    middle = plan.pp - (plan.first_stage_layers is not None) - (plan.last_stage_layers is not None)
    if middle < 0 or middle_layers < 0 or bool(middle) != bool(middle_layers) or (middle and middle_layers % middle):
        raise ValueError(f"{middle_layers} layers are left for {max(middle, 0)} middle pipeline ranks")
    counts = [middle_layers // middle] * middle if middle else []
    if plan.first_stage_layers is not None:
        counts.insert(0, plan.first_stage_layers)
    if plan.last_stage_layers is not None:
        counts.append(plan.last_stage_layers)
    return counts


def even_layout(layers: int, mtp: int, stages: int) -> str:
    """The layout that spreads the layers evenly, with embedding, MTP and loss at the ends."""
    symbols = ["t" * count for count in balanced(layers, mtp, stages)]
    symbols[0] = "E" + symbols[0]
    symbols[-1] += "m" * mtp + "L"
    return format_layout(tuple(symbols))


def balanced(layers: int, mtp: int, stages: int) -> tuple[int, ...]:
    """Shares that differ by at most one; the ends, which hold embedding, head and MTP, get the smaller ones."""
    if stages == 1:
        return (layers,)
    base, extra = divmod(layers + mtp, stages)
    order = [*range(stages - 2, 0, -1), 0, stages - 1]
    counts = [base] * stages
    for stage in order[:extra]:
        counts[stage] += 1
    if counts[-1] < mtp:
        return (*balanced(layers, 0, stages - 1), 0)
    counts[-1] -= mtp
    return tuple(counts)


def stages(model: Model, plan: Plan) -> tuple[StageLayers, ...]:
    """Every virtual stage in the order a micro-batch visits them. Raises ValueError for a contradictory layout."""
    symbols = parse_layout(plan.layout) if plan.layout is not None else None
    counts = layer_counts(len(model.layers), len(model.mtp), plan)
    if len(counts) != stage_count(plan):
        raise ValueError(f"layout has {len(counts)} stages, the plan {stage_count(plan)} (pp x chunks)")
    if sum(counts) != len(model.layers):
        raise ValueError(f"stages hold {sum(counts)} layers, the model has {len(model.layers)}")
    last = len(counts) - 1
    result, first = [], 0
    for index, count in enumerate(counts):
        at_end = (index == 0, len(model.mtp) if index == last else 0, index == last)
        if symbols is not None:
            at_end = ("E" in symbols[index], symbols[index].count("m"), "L" in symbols[index])
        result.append(StageLayers(index, first, count, *at_end))
        first += count
    return tuple(result)
