"""What a legality rule looks at, and what it says: the plan beside the facts of its model, and a violation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from simulator.model.components import layer_linears
from simulator.model.spec import Attention, DenseFFN, LatentAttention, LinearAttention, Mixer, Model, MoE
from simulator.plans.spec import Plan


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the rules need of a model, gathered once: distinct mixers and feed-forwards instead of every layer.

    `matrices`: names of all matrices of its layers.
    """

    layers: int
    mtp: int
    hidden: int
    positions: int
    hyper_connections: int
    mixers: tuple[Mixer, ...]
    dense: tuple[DenseFFN, ...]
    moe: tuple[MoE, ...]
    matrices: frozenset[str] = frozenset()

    @property
    def attentions(self) -> tuple[Attention, ...]:
        return tuple(mixer for mixer in self.mixers if isinstance(mixer, Attention))

    @property
    def latent(self) -> bool:
        return any(isinstance(mixer, LatentAttention) for mixer in self.mixers)

    @property
    def linear(self) -> tuple[LinearAttention, ...]:
        return tuple(mixer for mixer in self.mixers if isinstance(mixer, LinearAttention))


def model_facts(model: Model) -> ModelFacts:
    blocks = tuple(dict.fromkeys(model.layers + model.mtp))
    ffns = dict.fromkeys(block.ffn for block in blocks)
    return ModelFacts(
        layers=len(model.layers),
        mtp=len(model.mtp),
        hidden=model.hidden,
        positions=model.positions,
        hyper_connections=model.hyper_connections,
        mixers=tuple(dict.fromkeys(block.mixer for block in blocks if block.mixer is not None)),
        dense=tuple(ffn for ffn in ffns if isinstance(ffn, DenseFFN)),
        moe=tuple(ffn for ffn in ffns if isinstance(ffn, MoE)),
        matrices=frozenset(each.name for block in blocks for each in layer_linears(model, block)),
    )


@dataclass(frozen=True, slots=True)
class PlanCase:
    """One plan to judge: for this model, on so many GPUs, with sequences of so many tokens."""

    facts: ModelFacts
    plan: Plan
    gpus: int
    seq_length: int


@dataclass(frozen=True, slots=True)
class Fault:
    """What a rule found: the dotted key at fault, its value, why it cannot be, and what would be right."""

    key: str
    value: Any
    why: str
    remedy: str


def written(value: Any) -> str:
    """A value as a scenario file writes it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(written, value))}]"
    return str(value)


Check = Callable[[PlanCase], Fault | None]


def near(value: int, legal: Iterable[int]) -> str:
    """The legal values next to `value`, in words: "4 or 8"."""
    choices = sorted(set(legal))
    below = [choice for choice in choices if choice < value][-1:]
    above = [choice for choice in choices if choice > value][:1]
    return " or ".join(str(choice) for choice in below + above) or "none"


def divisors(number: int) -> list[int]:
    """All divisors of a positive number, ascending."""
    small = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*small, *(number // d for d in small)})


def near_multiple(value: int, base: int) -> str:
    """The multiples of `base` next to `value`: "96 or 128"."""
    return near(value, (m for m in (value // base * base, (value // base + 1) * base) if m > 0))
