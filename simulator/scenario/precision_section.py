"""`plan.precision` as a mapping: which linears compute in its low precision, by module, by layer or by share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from hardware.precisions import OFFERED, PRECISIONS, UNSPECIFIED_FP8
from hardware.problems import one_of
from hardware.sections import Section
from simulator.fields import object_schema, read_whole
from simulator.model.components import linears
from simulator.model.spec import Layer, Model
from simulator.plans.quantized import ALL_LINEARS, PARTS, Quantized, part_of
from simulator.plans.spec import Plan
from simulator.scenario.short_forms import forms

WHAT = {
    "attention": "What projections of attention, and of other mixers, compute in.",
    "mlp": "What linears of dense feed-forwards compute in.",
    "experts": "What linears of routed experts compute in.",
    "shared_experts": "What linears of shared experts compute in.",
    "mtp": "What modules of multi-token prediction compute in.",
    "head": "What the output projection computes in; without it, 16 bit.",
}
LAYERS = ("bf16_layers_at_start", "bf16_layers_at_end")
# Parts that people name and that never compute in fewer bits, and what to write.
ALWAYS_HIGH = {
    "router": "routers compute in 16 bit or more always; leave it out",
    "core_attention": "attention's core computes in 16 bit always; leave it out, attention is its projections",
    "embedding": "an embedding is looked up, not multiplied; leave it out",
}
DEFAULT_BASE = "bf16"


@dataclass(frozen=True, slots=True)
class Written:
    """What a mapping says: the low precision (or the only one), and which linears compute in it.

    `emptied`: it names a precision below 16 bit and leaves nothing to it.
    """

    precision: str
    quantized: Mapping[str, Any]
    emptied: bool = False


def write_out_precision(section: Section, model: Model | None, plain_fp8: str) -> bool:
    """Puts a plan's `precision`, where it is a mapping, into the keys `precision` and `quantized`.

    `plain_fp8` is the precision that "fp8" stands for. Whether the mapping says fp8; problems are added to the section.
    """
    written = section.data.get("precision")
    if not isinstance(written, Mapping):
        return False
    found = read_precision(section.section("precision"), model, plain_fp8)
    if "quantized" in section.data:
        section.report("quantized", "and a mapping under precision say the same; write one, best precision")
    section.data = {**section.data, "precision": found.precision, "quantized": found.quantized}
    if found.emptied and section.data.get("fp8_param_gather") is True:
        section.data = {**section.data, "fp8_param_gather": False}  # no weights are left to be kept in 8 bit
    return UNSPECIFIED_FP8 in written.values()


def read_precision(section: Section, model: Model | None, plain_fp8: str) -> Written:
    """The mapping; a stand-in where it is wrong."""
    named = {key: _name(section, key, plain_fp8) for key in ("base", *PARTS) if key in section.data}
    base = named.pop("base", None) or DEFAULT_BASE
    counts = {key: read_whole(section, key) for key in LAYERS if key in section.data}
    share = section.quantity("share", "fraction", None, zero=True)
    for key in set(ALWAYS_HIGH) & set(section.data):
        section.seen.add(key)
        section.report(key, ALWAYS_HIGH[key])
    section.seen.update(("base", *PARTS, *LAYERS))
    section.done()
    low = _low_precision(section, base, named)
    if low is None:
        if counts or share is not None:
            section.report("base", f"is {base}, not below 16 bit: nothing is left in 16 bit. Write e.g. {plain_fp8}")
        for part, name in named.items():
            if name not in (None, base):
                why = f"is {name}; what is not below 16 bit computes in the base, {base}"
                section.report(part, f"{why}. Write {base}, or leave it out")
        return Written(base, {})
    _report_other_high(section, low, {"base": base, **named})
    if model is not None:
        _report_absent(section, model, named)
    parts = {part: base == low and part != "head" for part in PARTS}
    parts |= {part: name == low for part, name in named.items()}
    if share is not None:
        if counts:
            section.report("share", f"says how many layers stay in 16 bit, and so does {next(iter(counts))}; write one")
        counts = layers_of_share(model, Quantized(**parts), _fraction(section, share)) if model else {}
    chosen: dict[str, Any] = {**parts, **counts}
    if share == 0 or (model is not None and is_all_high(model, Quantized(**chosen))):
        return Written(PRECISIONS[low].high, {}, emptied=True)
    return Written(low, chosen)


def _name(section: Section, key: str, plain_fp8: str) -> str | None:
    """The precision under a key, in the catalogue's own word."""
    value = section.text(key)
    name = forms()["words"]["plan.precision"].get(str(value).lower(), value)
    name = plain_fp8 if name == UNSPECIFIED_FP8 else name
    if name not in OFFERED:
        section.report(key, one_of(name, OFFERED))
        return None
    return str(name)


def _fraction(section: Section, share: float) -> float:
    if share <= 1:
        return share
    section.report("share", f"is {share:g}, more than all. Write at most 100%")
    return 1.0


def _low_precision(section: Section, base: str, named: Mapping[str, str | None]) -> str | None:
    """The one precision below 16 bit that a mapping names; None where it names none."""
    names = dict.fromkeys(name for name in (base, *named.values()) if name and PRECISIONS[name].quantized)
    if len(names) > 1:
        both = " and ".join(names)
        section.report(next(key for key in named), f"{both} in one plan are not simulated; name one beside 16 bit")
    return next(iter(names), None)


def _report_other_high(section: Section, low: str, named: Mapping[str, str | None]) -> None:
    high = PRECISIONS[low].high
    for key, name in named.items():
        if name is not None and not PRECISIONS[name].quantized and name != high:
            section.report(key, f"is {name}; what {low} leaves computes in {high}. Write {high}")


def _report_absent(section: Section, model: Model, named: Mapping[str, str | None]) -> None:
    for part in named:
        if part not in present_parts(model):
            section.report(part, f"the model has none. Leave it out; it has {', '.join(present_parts(model))}")


def present_parts(model: Model) -> list[str]:
    """The parts of `Quantized` that a model has."""
    halves = {half for layer in (*model.layers, *model.mtp) for half in (layer.mixer, layer.ffn) if half is not None}
    found = {part_of(half, linear) for half in halves for linear in linears(half, model.hidden)}
    found |= {"head"} | ({"mtp"} if model.mtp else set())
    return [part for part in PARTS if part in found]


def layers_of_share(model: Model, parts: Quantized, share: float) -> dict[str, int]:
    """How many first and last layers stay in 16 bit, so that `share` of the linears' parameters do not, to a layer.

    The middle layers are quantised first, as recipes leave the ends in 16 bit, and of an odd number the last end gets
    one more. Parameters are those of the decoder layers' linears that the parts would quantise.
    """
    weights = [quantized_parameters(model, layer, parts) for layer in model.layers]
    count, whole = len(weights), sum(weights)
    if not whole:
        return {}

    def misses(wide: int) -> tuple[float, int]:
        low = sum(weights[wide // 2 : count - (wide - wide // 2)])
        return abs(low / whole - share), wide

    wide = min(range(count + 1), key=misses)
    return dict(zip(LAYERS, (wide // 2, wide - wide // 2), strict=True))


def quantized_parameters(model: Model, layer: Layer, parts: Quantized) -> int:
    """Parameters of a layer's linears that are quantised where the layer is."""
    found = 0
    for component in (layer.mixer, layer.ffn):
        for linear in linears(component, model.hidden):
            part = part_of(component, linear) if component is not None else None
            if part is not None and getattr(parts, part):
                found += linear.copies * linear.inputs * linear.outputs
    return found


def is_all_high(model: Model, chosen: Quantized) -> bool:
    """Whether nothing is left to compute in the low precision."""
    wide, count = chosen.bf16_layers_at_start + chosen.bf16_layers_at_end, len(model.layers)
    if wide > count:
        return False  # more layers than there are: the plan's rules say so
    low = range(chosen.bf16_layers_at_start, count - chosen.bf16_layers_at_end)
    layers = any(quantized_parameters(model, model.layers[index], chosen) for index in low)
    return not layers and not chosen.head and not (chosen.mtp and model.mtp)


def key_as_written(key: str, document: Mapping[str, Any]) -> str:
    """A dotted key of a scenario; one below `quantized` as one below `precision` where the file has a mapping there."""
    above, found, name = key.partition("quantized.")
    written: Any = document
    for each in above.rstrip(".").split("."):
        written = _below(written, each)
    return f"{above}precision.{name}" if found and isinstance(_below(written, "precision"), Mapping) else key


def _below(written: Any, key: str) -> Any:
    """What stands under a key of a mapping, or under a number of a list; None where nothing does."""
    if isinstance(written, list):
        return written[int(key)] if key.isdecimal() and int(key) < len(written) else None
    return written.get(key) if isinstance(written, Mapping) else None


def written_precision(plan: Plan) -> str | dict[str, Any]:
    """A plan's precision as a file writes it: its name, or the mapping with the parts that differ from the usual."""
    high = PRECISIONS[plan.precision].high
    changed: dict[str, Any] = {}
    for spec in fields(Quantized):
        value = getattr(plan.quantized, spec.name)
        if value != getattr(ALL_LINEARS, spec.name):
            changed[spec.name] = value if spec.name in LAYERS else (plan.precision if value else high)
    return {"base": plan.precision, **changed} if changed else plan.precision


def precision_schema(name: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON Schema of `plan.precision`: a name, or a mapping."""
    words = {"enum": name["enum"]}
    parts = object_schema(Quantized)["properties"]
    of_parts = {part: {**words, "description": WHAT[part]} for part in PARTS}
    mapping = {
        "type": "object",
        "properties": {
            "base": {**words, "description": "What every linear computes in that is not named; without it, bf16."},
            **of_parts,
            **{key: parts[key] for key in LAYERS},
            "share": {
                "type": ["number", "string"],
                "description": "Share of the layers' linears, by parameters, that compute below 16 bit: the middle "
                "layers first, to a whole layer. Excludes bf16_layers_at_start and bf16_layers_at_end.",
                "examples": ["50%"],
            },
        },
        "additionalProperties": False,
    }
    whole = {key: value for key, value in name.items() if key != "enum"}
    return {**whole, "anyOf": [words, mapping]}
