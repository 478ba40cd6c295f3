"""Which matrices an adapter's targets name, and the rules on them."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.plans.case import Check, Fault, PlanCase

# Names of projections in Hugging Face models, by the matrix that holds them here; "experts" are the routed ones.
PROJECTIONS: Mapping[str, tuple[str, ...]] = {
    "qkv": ("q_proj", "k_proj", "v_proj"),
    "q": ("q_proj",),
    "q_down": ("q_a_proj",),
    "q_up": ("q_b_proj",),
    "kv_down": ("kv_a_proj_with_mqa",),
    "kv_up": ("kv_b_proj",),
    "qkv_gate": ("in_proj",),
    "qkv_beta": ("in_proj",),
    "in": ("in_proj",),
    "out": ("o_proj",),
    "fc1": ("gate_proj", "up_proj"),
    "fc2": ("down_proj",),
    "shared_fc1": ("gate_proj", "up_proj"),
    "shared_fc2": ("down_proj",),
    "expert_fc1": ("experts",),
    "expert_fc2": ("experts",),
}
# Megatron's names of whole matrices, each with one adapter.
WHOLE: Mapping[str, str] = {
    "qkv": "linear_qkv",
    "out": "linear_proj",
    "fc1": "linear_fc1",
    "fc2": "linear_fc2",
    "shared_fc1": "linear_fc1",
    "shared_fc2": "linear_fc2",
}
TARGETS = tuple(dict.fromkeys([*(word for words in PROJECTIONS.values() for word in words), *WHOLE.values()]))


def adapter_targets_exist(case: PlanCase) -> Fault | None:
    """Every target is a word that is known, and names a matrix of the model."""
    adapters = case.plan.adapters
    if adapters is None:
        return None
    present = [word for word in TARGETS if not matrices_of(word).isdisjoint(case.facts.matrices)]
    absent = [word for word in adapters.targets if word not in present]
    if absent or not adapters.targets:
        why = f"{', '.join(absent)}: no matrix of the model has that name" if absent else "no matrix has an adapter"
        return Fault("plan.adapters.targets", adapters.targets, why, f"some of {', '.join(present)}")
    return None


def matrices_of(word: str) -> set[str]:
    """Names of the matrices here that a target stands for."""
    joined = {name for name, words in PROJECTIONS.items() if word in words}
    return joined | {name for name, whole in WHOLE.items() if word == whole}


UNIVERSAL: dict[str, Check] = {"adapter_targets_exist": adapter_targets_exist}
