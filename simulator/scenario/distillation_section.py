"""The section `distillation`: a teacher whose logits the model learns from, run beside it on the same GPUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, dataclass, replace
from typing import Any

from hardware.problems import Place
from hardware.sections import Section
from simulator.fields import Form, Setting, read_fields, setting
from simulator.model.catalogue import names as model_names
from simulator.model.spec import Model

ReadModel = Callable[[Any, Place], Model | None]
MODEL = Form(
    Section.take,
    {
        "anyOf": [
            {"type": "string", "description": "A model of the catalogue.", "examples": model_names()},
            {
                "type": "object",
                "description": "A model as in the section model: changed, of Hugging Face, or written out.",
                "properties": {"base": {"enum": model_names(), "description": "The model that is changed."}},
            },
        ]
    },
)


@dataclass(frozen=True, slots=True)
class DistillationKeys:
    """A teacher whose forward pass goes beside every forward of the model, its student, on the same GPUs."""

    teacher: Any = setting(MISSING, Setting("The model that is learnt from.", "llama-3-70b", form=MODEL))
    top_logits: int | None = setting(
        None, Setting("Largest logits kept of every token; without it, those of the whole vocabulary.", 256)
    )


@dataclass(frozen=True, slots=True)
class Distillation:
    """The teacher, without its prediction modules, and how many logits of a token are kept (None: all)."""

    teacher: Model
    top_logits: int | None = None


def read_distillation(section: Section, read_model: ReadModel) -> Distillation | None:
    """The section; None where the teacher is missing. Raises InputError for one that cannot be read."""
    keys = read_fields(DistillationKeys, section)
    teacher = read_model(keys.teacher, section.place.under("teacher"))
    return None if teacher is None else Distillation(replace(teacher, mtp=()), keys.top_logits)
