"""What is set beside an import's files: every key stands in the scenario as given, and one that none has is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from hardware.problems import InputError
from tests.command import traincast
from tests.simulator.test_import_launch import SBATCH, imported, scenario

PLACE = ("cluster.fabric=ndr-rail-2tier",)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ('run.prices.gpu_hour="2 USD/h"', "2 USD/h"),
        ("run.prices={gpu_hour: 3}", {"gpu_hour": 3}),
        ("run.spares=4", 4),
        ("run.spares.hot=2", 2),
        ("run.checkpoint.every=30 min", "30 min"),
        ("run.checkpoint=none", "none"),
        ("run.failures=none", "none"),
        ("run.simulation.seed=3", 3),
        ("run.tokens=2T", "2T"),
        ("run.days=30", 30),
        ("plan.vpp=1", 1),
        ("plan.tp=2", 2),
        ("plan.stack.dropout=false", False),
        ("plan.offload.activation=50%", "50%"),
        ("model=llama-3-8b", "llama-3-8b"),
        ("model.layers=16", 16),
        ("cluster.node=mi300x-platform", "mi300x-platform"),
        ("cluster.node.nics=4", 4),
        ("cluster.storage_write=500 GB/s", "500 GB/s"),
        ("spread.gpu_sigma=0.01", 0.01),
        ("question=How fast?", "How fast?"),
    ],
)
def test_a_given_key_stands_in_the_scenario(tmp_path: Path, given: str, expected: Any) -> None:
    found: Any = yaml.safe_load(imported(tmp_path, {"job.sbatch": SBATCH}, given).text)
    for name in given.partition("=")[0].split("."):
        found = found[name]
    assert found == expected


def test_given_keys_leave_no_second_word_for_the_same(tmp_path: Path) -> None:
    """The launch tells steps; tokens that are given take their place, and the whole loads."""
    read = scenario(
        tmp_path, {"job.sbatch": SBATCH}, *PLACE, "run.tokens=2T", "run.spares=4", "plan.stack.dropout=false"
    )
    assert read.run.tokens == 2e12
    assert read.run.policies is not None
    assert read.run.policies.recovery.hot_spares == 4
    assert read.plan.stack.dropout is False


def test_what_is_filled_in_is_no_longer_asked_for(tmp_path: Path) -> None:
    asked = imported(tmp_path, {"a.sh": "--micro-batch-size 1 --tensor-model-parallel-size 2"})
    filled = imported(tmp_path, {"a.sh": "--micro-batch-size 1 --tensor-model-parallel-size 2"}, "run.days=30")
    assert set(asked.fill_in) - set(filled.fill_in) == {"run.steps"}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("nonsense=1", "'nonsense' is not known"),
        ("plan.foo=3", "'foo' is not known"),
        ("plan.vp=2", "did you mean vpp"),
        ("run.checkpoint.evry=2 h", "did you mean every"),
        ("run.tokens.most=3", "single value"),
        ("plan", "needs the form"),
    ],
)
def test_a_key_that_no_scenario_has_is_refused(tmp_path: Path, given: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        imported(tmp_path, {"job.sbatch": SBATCH}, given)


def test_the_verb_names_every_unknown_key_and_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "job.sbatch").write_text(SBATCH)
    out = tmp_path / "s.yaml"
    done = traincast(
        "import", str(tmp_path / "job.sbatch"), "--set", "plan.foo=3", "--set", "nonsense=1", "--out", str(out)
    )
    assert done.returncode == 2
    assert all(key in done.stderr for key in ("plan.foo", "nonsense"))
    assert not out.exists()
