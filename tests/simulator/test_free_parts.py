"""`traincast plan --free` of a part of a section: its values are searched, and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from hardware.problems import InputError
from simulator.cli.plan_options import asked_of
from simulator.plans.spec import Offload
from tests.command import ROOT

TINY = ROOT / "scenarios/tiny.yaml"


def freed(*options: str, file: Path = TINY) -> dict[str, object]:
    return dict(asked_of(file, [], [], options).options.free or {})


def test_a_part_is_freed_by_its_own_name() -> None:
    own = asked_of(TINY, [], [], []).scenario.plan.optimizer
    found = freed("plan.optimizer.grads=fp32,bf16")
    assert found == {"optimizer": [replace(own, grads="fp32"), replace(own, grads="bf16")]}


def test_parts_of_one_section_are_crossed() -> None:
    found = freed("plan.optimizer.moments=fp32,bf16", "plan.optimizer.grads=fp32,bf16")["optimizer"]
    assert isinstance(found, list)
    pairs = [(each.moments, each.grads) for each in found]
    assert pairs == [("fp32", "fp32"), ("fp32", "bf16"), ("bf16", "fp32"), ("bf16", "bf16")]


def test_a_part_is_read_in_its_short_form() -> None:
    found = freed("plan.offload.optimizer=0,100%")["offload"]
    assert isinstance(found, list)
    assert [each.optimizer_fraction for each in found if isinstance(each, Offload)] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["plan.optimizer.grads"], "is a part of plan.optimizer; give its values, as plan.optimizer.grads=A,B"),
        (["plan.optimizer", "plan.optimizer.grads=fp32"], "frees the whole of what plan.optimizer.grads=fp32 frees"),
        (["plan.precision.mlp=bf16,mxfp8"], "changes more than plan.precision, which a search cannot vary"),
        (["plan.optimizer.foo=1"], "plan.optimizer.foo: 'foo' is not known"),
    ],
)
def test_a_part_that_cannot_be_searched_is_told_by_its_name(options: list[str], words: str) -> None:
    with pytest.raises(InputError) as caught:
        freed(*options)
    assert words in str(caught.value)
