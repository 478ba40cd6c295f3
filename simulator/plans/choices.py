"""What the words of a plan mean that choose how state is sharded, what is recomputed, and how context is exchanged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sharding:
    """What data parallelism shards of weights, gradients and optimizer state, and what people call it."""

    label: str
    shards_optimizer: bool = False
    shards_gradients: bool = False
    shards_weights: bool = False

    @property
    def gathers_once(self) -> bool:
        """Whether parameters are gathered once a step, after the update, and stay whole."""
        return self.shards_optimizer and not self.shards_weights

    def gathers(self, microbatches: int) -> int:
        """Parameter all-gathers a step: sharded weights for every forward and again for every backward."""
        if self.shards_weights:
            return 2 * microbatches
        return 1 if self.shards_optimizer else 0

    @property
    def reduction(self) -> str:
        """The collective that reduces gradients."""
        return "reduce_scatter" if self.shards_optimizer else "all_reduce"


SHARDINGS: dict[str, Sharding] = {
    "none": Sharding("replicated"),
    "optimizer": Sharding("ZeRO-1", shards_optimizer=True),
    "optimizer_gradients": Sharding("ZeRO-2", shards_optimizer=True, shards_gradients=True),
    "full": Sharding("ZeRO-3", shards_optimizer=True, shards_gradients=True, shards_weights=True),
}


# Engines whose shards are the fp32 master copy itself.
FSDP = ("fsdp", "fsdp2")


@dataclass(frozen=True, slots=True)
class Granularity:
    """What recomputation takes: whole layers, or the modules that the plan names."""

    whole_layers: bool = False
    named_modules: bool = False


GRANULARITIES: dict[str, Granularity] = {
    "none": Granularity(),
    "selective": Granularity(named_modules=True),
    "full": Granularity(whole_layers=True),
}


@dataclass(frozen=True, slots=True)
class ContextExchange:
    """How the ranks of a context-parallel group see each other's keys and values.

    `splits_heads`: each rank works on its share of the heads over the whole sequence (Ulysses); otherwise keys and
    values travel, `behind_attention` block by block while attention runs on the last one, or (`gathers_keys`) all of
    them before it.
    """

    splits_heads: bool = False
    behind_attention: bool = False
    gathers_keys: bool = False


CONTEXT_EXCHANGES: dict[str, ContextExchange] = {
    "p2p": ContextExchange(behind_attention=True),
    "allgather": ContextExchange(gathers_keys=True),
    "a2a": ContextExchange(splits_heads=True),
}
