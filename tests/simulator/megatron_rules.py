"""Megatron-Core's rules on argument lists, written from its sources and independent of the simulator's own rules.

`problems(arguments, world, environment, generation)` reads an argument list as the training script would and names
every rule that it breaks: arguments.py (validate_args), transformer_config.py, parallel_state.py and the micro-batch
calculator of Megatron-LM, core 0.20.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

MODULES = {"core_attn", "moe_act", "layernorm", "mla_up_proj", "mlp", "moe", "shared_experts"}


@dataclass(frozen=True)
class Arguments:
    """An argument list: flags without value, and the words after each other flag."""

    words: Mapping[str, tuple[str, ...]]
    world: int
    environment: Mapping[str, str]
    generation: str

    def has(self, name: str) -> bool:
        return name in self.words

    def text(self, name: str, default: str = "") -> str:
        return self.words[name][0] if name in self.words else default

    def number(self, name: str, default: int | None = None) -> int:
        if name not in self.words and default is not None:
            return default
        return int(self.words[name][0])

    @property
    def tp(self) -> int:
        return self.number("--tensor-model-parallel-size")

    @property
    def pp(self) -> int:
        return self.number("--pipeline-model-parallel-size")

    @property
    def cp(self) -> int:
        return self.number("--context-parallel-size", 1)

    @property
    def ep(self) -> int:
        return self.number("--expert-model-parallel-size", 1)

    @property
    def etp(self) -> int:
        return self.number("--expert-tensor-parallel-size", self.tp)

    @property
    def layers(self) -> int:
        return self.number("--num-layers")

    @property
    def experts(self) -> int:
        return self.number("--num-experts", 0)

    @property
    def stages(self) -> list[str] | None:
        """The layout, a string of symbols for each virtual stage; None without one."""
        if not self.has("--pipeline-model-parallel-layout"):
            return None
        return expanded(self.text("--pipeline-model-parallel-layout")).split("|")

    @property
    def vpp(self) -> int:
        if self.stages is not None:
            return len(self.stages) // self.pp
        return self.number("--num-virtual-stages-per-pipeline-rank", 1)

    @property
    def microbatches(self) -> int:
        dp = self.world // (self.tp * self.pp * self.cp)
        return self.number("--global-batch-size") // (self.number("--micro-batch-size") * dp)

    @property
    def is_fsdp(self) -> bool:
        return self.has("--use-megatron-fsdp")

    @property
    def is_sharded(self) -> bool:
        return self.has("--use-distributed-optimizer") or self.is_fsdp


def expanded(layout: str) -> str:
    """A layout string without repetitions and commas."""
    text = layout.replace(",", "")
    while "*" in text:
        text = re.sub(r"\(([^()]*)\)\*(\d+)|([^()|*])\*(\d+)", _repeat, text, count=1)
    return text


def _repeat(match: re.Match[str]) -> str:
    group, times, symbol, symbol_times = match.groups()
    return group * int(times) if group is not None else symbol * int(symbol_times)


def read(arguments: Sequence[str], world: int, environment: Mapping[str, str], generation: str) -> Arguments:
    """The list as argparse groups it; a flag that stands twice is a mistake of the writer."""
    words: dict[str, list[str]] = {}
    name = ""
    for word in arguments:
        if word.startswith("--"):
            assert word not in words, f"{word} is written twice"
            name = word
            words[name] = []
        else:
            words[name].append(word)
    return Arguments({key: tuple(value) for key, value in words.items()}, world, environment, generation)


def degrees(a: Arguments) -> Iterator[tuple[bool, str]]:
    replica = a.tp * a.pp * a.cp
    yield a.world % replica != 0, "world % (tp pp cp)"
    yield a.world % (a.etp * a.ep * a.pp) != 0, "world % (etp ep pp)"
    yield a.ep > 1 and a.experts == 0, "expert parallelism without experts"
    yield a.experts > 0 and a.experts % a.ep != 0, "experts % ep"
    dp = a.world // replica
    share = a.number("--micro-batch-size") * dp
    yield a.number("--global-batch-size") % share != 0, "global batch % (micro batch x dp)"
    heads = a.number("--num-attention-heads")
    yield heads % a.tp != 0, "heads % tp"
    groups = a.number("--num-query-groups", heads)
    yield groups % a.tp != 0 and a.tp % groups != 0, "query groups and tp"
    yield a.cp > 1 and a.number("--seq-length") % (2 * a.cp) != 0, "sequence % (2 cp)"
    yield a.number("--max-position-embeddings") < a.number("--seq-length"), "positions below the sequence"
    yield a.tp == 1 and a.has("--sequence-parallel"), "sequence parallelism at tp 1 is switched off in silence"
    yield a.has("--tp-comm-overlap") and not a.has("--sequence-parallel"), "tp overlap without sequence parallelism"
    yield a.experts > 0 and a.tp > 1 and not a.has("--sequence-parallel"), "experts at tp > 1 need sequence parallelism"


def pipeline(a: Arguments) -> Iterator[tuple[bool, str]]:
    first = a.number("--decoder-first-pipeline-num-layers", 0)
    last = a.number("--decoder-last-pipeline-num-layers", 0)
    counted = a.has("--account-for-embedding-in-pipeline-split") + a.has("--account-for-loss-in-pipeline-split")
    yield a.vpp > 1 and a.pp == 1, "virtual stages without a pipeline"
    yield a.vpp > 1 and a.pp == 2 and a.has("--no-overlap-p2p-communication"), "interleaving of two ranks in turn"
    if a.stages is not None:
        yield from layout(a, a.stages)
        yield first > 0 or last > 0 or counted > 0, "a layout beside other words on the split"
        yield a.has("--num-virtual-stages-per-pipeline-rank"), "a layout beside virtual stages"
        return
    yield (first > 0 or last > 0) and counted > 0, "pinned ends beside counted ends"
    if first or last:
        middle = a.pp - (first > 0) - (last > 0)
        rest = a.layers - first - last
        yield (middle == 0) != (rest == 0) or (middle > 0 and rest % middle != 0), "middle layers % middle stages"
        yield first % a.vpp != 0 or last % a.vpp != 0, "pinned layers % virtual stages"
        yield middle > 0 and rest // middle % a.vpp != 0, "middle layers % virtual stages"
    else:
        yield (a.layers + counted) % (a.pp * a.vpp) != 0, "layers % stages"
    if a.vpp > 1:
        group = a.number("--microbatch-group-size-per-virtual-pipeline-stage", a.pp)
        yield not a.pp <= group <= a.microbatches, "pp <= group <= micro-batches"


def layout(a: Arguments, stages: list[str]) -> Iterator[tuple[bool, str]]:
    line = "".join(stages)
    yield len(stages) % a.pp != 0, "stages of the layout % pp"
    yield line.count("E") != 1 or not line.startswith("E"), "E first, once"
    yield line.count("L") != 1 or not line.endswith("L"), "L last, once"
    yield line.count("t") != a.layers, "layers of the layout"
    yield line.count("m") != a.number("--mtp-num-layers", 0), "MTP modules of the layout"
    on_first_rank = any("m" in stage for index, stage in enumerate(stages) if index % a.pp == 0)
    yield a.pp > 1 and on_first_rank, "MTP on the first rank"


def overlap(a: Arguments) -> Iterator[tuple[bool, str]]:
    yield a.has("--delay-wgrad-compute") and not a.has("--overlap-moe-expert-parallel-comm"), "delayed without overlap"
    if a.has("--overlap-moe-expert-parallel-comm"):
        yield a.ep == 1, "expert overlap: ep"
        yield a.text("--moe-token-dispatcher-type") not in ("alltoall", "flex"), "expert overlap: dispatcher"
        yield not a.has("--bf16") and not a.has("--fp16"), "expert overlap: 16 bit"
        yield a.pp > 1 and a.vpp == 1, "expert overlap: virtual stages"
        yield a.text("--recompute-granularity") == "full", "expert overlap: full recompute"
        yield "moe" in a.words.get("--recompute-modules", ()), "expert overlap: moe recomputed"
        yield a.has("--moe-shared-expert-overlap"), "expert overlap: shared experts"
        yield a.number("--mtp-num-layers", 0) > 1, "expert overlap: MTP modules"
    yield (
        a.has("--overlap-param-gather") and not a.has("--overlap-grad-reduce"),
        "gather overlap alone",
    )
    yield a.has("--overlap-param-gather") and not a.is_sharded, "gather overlap without shards"
    connections = a.environment.get("CUDA_DEVICE_MAX_CONNECTIONS")
    old = a.generation in ("volta", "ampere", "hopper")
    ordered = (a.tp > 1 or a.cp > 1) and old and not a.is_fsdp and not a.has("--overlap-moe-expert-parallel-comm")
    yield ordered and connections != "1", "one connection before Blackwell"
    yield a.is_fsdp and connections == "1", "FSDP with one connection"


def features(a: Arguments) -> Iterator[tuple[bool, str]]:
    mla, moe = a.has("--multi-latent-attention"), a.experts > 0
    yield mla and a.has("--group-query-attention"), "MLA with query groups"
    sizes = ("--kv-lora-rank", "--qk-head-dim", "--qk-pos-emb-head-dim", "--v-head-dim")
    yield mla and not all(a.has(name) for name in sizes), "MLA sizes left to the parser's defaults"
    yield moe and not a.has("--expert-tensor-parallel-size"), "etp left to the parser's default"
    yield moe and not a.has("--disable-bias-linear") and a.etp > 1, "biased experts with etp"
    yield moe and a.experts % a.number("--moe-router-num-groups", 1) != 0, "experts % router groups"
    yield a.number("--moe-router-group-topk", 1) > a.number("--moe-router-num-groups", 1), "more groups than there are"
    flex = a.text("--moe-token-dispatcher-type") == "flex"
    yield flex and a.ep * a.etp == 1 and a.text("--moe-flex-dispatcher-backend") == "deepep", "DeepEP without peers"
    yield flex != a.has("--moe-flex-dispatcher-backend"), "a backend goes with flex"
    granularity, modules = a.text("--recompute-granularity"), set(a.words.get("--recompute-modules", ()))
    full_words = a.has("--recompute-method") and a.has("--recompute-num-layers")
    yield (granularity == "full") != full_words, "full recompute: method and layers, and only there"
    yield bool(modules) != (granularity == "selective"), "modules go with selective recompute"
    yield not modules <= MODULES, "unknown modules"
    yield "mla_up_proj" in modules and not mla, "mla_up_proj without MLA"
    yield "moe_act" in modules and not a.has("--moe-grouped-gemm"), "moe_act without grouped GEMM"
    yield "shared_experts" in modules and a.has("--moe-shared-expert-overlap"), "shared experts twice"
    yield a.text("--fp8-recipe") == "delayed" and bool({"moe_act", "layernorm"} & modules), "delayed scaling"


def numbers(a: Arguments) -> Iterator[tuple[bool, str]]:
    yield a.has("--fp8-format") and a.has("--fp4-format"), "FP8 beside FP4"
    yield a.has("--bf16") and a.has("--fp16"), "bf16 beside fp16"
    yield a.has("--fp8-param-gather") and not (a.is_sharded and a.has("--fp8-format")), "FP8 weights unsharded"
    aware = a.has("--use-precision-aware-optimizer")
    states = ("--exp-avg-dtype", "--exp-avg-sq-dtype", "--main-params-dtype", "--main-grads-dtype")
    yield any(a.has(name) for name in states) and not aware, "state formats need the precision-aware optimizer"
    yield aware and not (a.is_sharded and a.text("--optimizer") == "adam"), "precision-aware Adam is sharded"
    yield a.has("--optimizer-cpu-offload") and not aware, "host optimizer needs the precision-aware one"
    yield a.is_fsdp != (a.text("--ckpt-format") == "fsdp_dtensor"), "FSDP's checkpoint format"
    yield a.is_fsdp and not a.has("--data-parallel-sharding-strategy"), "FSDP's strategy"


RULES: tuple[Callable[[Arguments], Iterator[tuple[bool, str]]], ...] = (degrees, pipeline, overlap, features, numbers)


def problems(arguments: Sequence[str], world: int, environment: Mapping[str, str], generation: str) -> list[str]:
    """Every rule that the list breaks, in words."""
    read_in = read(arguments, world, environment, generation)
    return [text for rule in RULES for broken, text in rule(read_in) if broken]
