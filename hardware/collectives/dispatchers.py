"""The ways in which tokens reach their experts: one record each, with its times towards the experts and back.

Names are Megatron-Core's. A new dispatcher is a record here (and its fitted terms in `expert_exchange.json`, where it
has kernels of its own).
"""

from __future__ import annotations

from dataclasses import dataclass

from hardware.collectives.experts import (
    ExchangeTime,
    ExpertExchange,
    by_collective,
    constants,
    one_copy_per_domain,
    token_bytes,
)
from hardware.collectives.group import Group
from hardware.collectives.links import Links
from hardware.specs import Cluster

GIB = 2**30


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """One dispatcher.

    `out_operation` and `home_operation`: the NCCL collectives that it consists of; None: kernels of its own, which
    send one copy of a token to every domain and fan it out inside. `sms`: that its communication holds beside
    compute. `permute_passes`: over the tokens, on either side of the experts, to sort them by expert;
    `expands_on_arrival`: its own stream copies what arrived once for each local expert. `wide_probabilities`: it hands
    over routing probabilities in fp32. `sends_fp8`: tokens may travel in FP8; `sums_in_router_dtype`: outputs may go
    home in the router's fp32. `buffer_bytes`: outside PyTorch's allocator.
    `can_overlap`: experts' traffic may hide behind other work; `needs_peers`: works only across ranks.
    `generations`: parts that its kernels are written for, by the names of the catalogue (none: every part).
    """

    name: str
    sms: int
    permute_passes: int
    out_operation: str | None = None
    home_operation: str | None = None
    expands_on_arrival: bool = False
    wide_probabilities: bool = False
    sends_fp8: bool = True
    sums_in_router_dtype: bool = False
    buffer_bytes: float = 0.0
    can_overlap: bool = True
    needs_peers: bool = False
    generations: tuple[str, ...] = ()

    def runs_on(self, generation: str) -> bool:
        """Whether its kernels are written for parts of a generation."""
        return not self.generations or generation.lower() in self.generations


# DeepEP and HybridEP: Megatron-Bridge's validate_flex_dispatcher_backend names Ampere, Hopper and Blackwell.
CUDA_KERNELS = ("ampere", "hopper", "blackwell")

# SMs: DeepEP's default in Megatron-Core 20, HybridEP 32 in recipes of Megatron-Bridge (moe_hybridep_num_sms), NCCL's
# channels of an all-to-all 24, from memory. Passes: NCCL's all-to-all needs copies sorted by rank before and by expert
# after; DeepEP only expands; HybridEP does so on its own stream. Buffers over NVLink and RDMA 1-2 GB, from memory.
_DISPATCHERS = (
    Dispatcher(
        "allgather",
        sms=24,
        permute_passes=2,
        out_operation="all_gather",
        home_operation="reduce_scatter",
        sends_fp8=False,
        sums_in_router_dtype=True,
        can_overlap=False,
    ),
    Dispatcher("alltoall", sms=24, permute_passes=2, out_operation="all_to_all", home_operation="all_to_all"),
    Dispatcher(
        "deepep",
        sms=20,
        permute_passes=1,
        wide_probabilities=True,
        buffer_bytes=1.5 * GIB,
        needs_peers=True,
        generations=CUDA_KERNELS,
    ),
    Dispatcher(
        "hybridep",
        sms=32,
        permute_passes=0,
        expands_on_arrival=True,
        wide_probabilities=True,
        buffer_bytes=1.5 * GIB,
        generations=CUDA_KERNELS,
    ),
)
DISPATCHERS: dict[str, Dispatcher] = {each.name: each for each in _DISPATCHERS}


def _dispatcher(name: str) -> Dispatcher:
    if name not in DISPATCHERS:
        raise ValueError(f"dispatcher {name!r}: choose one of {', '.join(DISPATCHERS)}")
    return DISPATCHERS[name]


def dispatch_s(
    exchange: ExpertExchange,
    group: Group,
    cluster: Cluster | Links,
    dispatcher: str = "deepep",
    fp8: bool = True,
    sms: int | None = None,
) -> ExchangeTime:
    """Tokens to their experts.

    `fp8` sends one byte per element and a scale per 128, where the dispatcher can; others send bf16. `sms`: that
    kernels of its own use (None: as many as the dispatcher holds). Raises ValueError for an unknown dispatcher.
    """
    chosen = _dispatcher(dispatcher)
    sms = chosen.sms if sms is None else sms
    low = fp8 and chosen.sends_fp8
    if chosen.out_operation is None:
        return one_copy_per_domain(constants()[chosen.name]["dispatch"], exchange, group, cluster, low, sms)
    return by_collective(chosen.out_operation, exchange, group, cluster, token_bytes(exchange.hidden, low))


def combine_s(
    exchange: ExpertExchange,
    group: Group,
    cluster: Cluster | Links,
    dispatcher: str = "deepep",
    sms: int | None = None,
    fp32: bool = False,
) -> ExchangeTime:
    """Expert outputs back to their tokens, in bf16; `fp32`: a reduce-scatter in the router's dtype.

    `sms` as in `dispatch_s`. Raises ValueError for an unknown dispatcher.
    """
    chosen = _dispatcher(dispatcher)
    sms = chosen.sms if sms is None else sms
    if chosen.home_operation is None:
        return one_copy_per_domain(constants()[chosen.name]["combine"], exchange, group, cluster, False, sms)
    wide = 2 if fp32 and chosen.sums_in_router_dtype else 1
    return by_collective(chosen.home_operation, exchange, group, cluster, wide * token_bytes(exchange.hidden, False))
