"""Options and phases that cannot be: exit code 2, with the option or key named and what to write."""

from __future__ import annotations

import pytest
import yaml

from hardware.problems import InputError
from simulator.launch.start import starting_scenario
from simulator.scenario.schema import load_scenario
from tests.command import ROOT, traincast

TINY = ROOT / "scenarios" / "tiny.yaml"
ON = ("--cluster", "h100-64", "--gpus", "64")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("collective", "all_reduce", *ON, "--min", "16GiB", "--max", "8"), "--min: 16GiB is above --max 8"),
        (("collective", "all_reduce", *ON, "--min", "0"), "--min: 0 is no size"),
        (("collective", "all_reduce", *ON, "--max", "8 parsecs"), "--max: "),
        (("collective", "all_reduce", *ON, "--factor", "1"), "--factor: 1 leads to no larger size"),
        (
            ("collective", "all_gather", *ON, "--algorithm", "tree"),
            "--algorithm: algorithm 'tree' does not do all_gather",
        ),
        (("collective", "all_reduce", *ON, "--algorithm", "nvls", "--protocol", "LL"), "--protocol: all_reduce: "),
        (("collective", "all_reduce", "--cluster", "a100-16", "--gpus", "8", "--algorithm", "nvls"), "--algorithm: "),
        (("collective", "all_reduce", "--cluster", "h100-32", "--gpus", "64"), "--gpus: cluster 32 x "),
        (("collective", "all_reduce", "--cluster", "h100-32", "--gpus", "8", "--stride", "8"), "--gpus, --stride: "),
        (("collective", "gradients", *ON, "--layers", "32xfoo"), "--layers: "),
        (("collective", "gradients", *ON, "--layers", "1MiB", "--backward", "fast"), "--backward: "),
        (("collective", "gradients", *ON, "--layers", "1MiB", "--bucket", "fast"), "--bucket: "),
        (("collective", "all_reduce", "--cluster", "nope", "--gpus", "64"), "--cluster: 'nope' is neither"),
        (("collective", "all_reduce", "--cluster", "nope-64", "--gpus", "64"), "--cluster: node 'nope' is not known"),
        (("collective", "all_reduce", *ON, "--fabric", "nope"), "--fabric: fabric 'nope' is not known"),
        (
            ("hardware", "hgx-h100", "--fabric", "ndr-rail-2tier"),
            "--fabric: is of a cluster, as in 'hardware hgx-h100-",
        ),
        (("hardware", "h100-1024", "--fabric", "nope"), "--fabric: fabric 'nope' is not known"),
    ],
)
def test_an_option_that_cannot_be_is_named(arguments: tuple[str, ...], told: str) -> None:
    done = traincast(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


@pytest.mark.parametrize(
    ("phases", "told"),
    [
        ("[{name: a, tokens: 400M, seq_length: 2048}, {name: a, seq_length: 4096}]", "have a more than once"),
        (
            "[{name: a, tokens: 400B, seq_length: 2048}, {name: b, seq_length: 4096}]",
            "hold 400 B tokens of the run's 1B: nothing is left for phase b, which gives none",
        ),
    ],
)
def test_phases_that_cannot_be_are_told_once(phases: str, told: str) -> None:
    """No negative rest of tokens, no second error that follows from the first."""
    with pytest.raises(InputError) as error:
        load_scenario(TINY, [f"run.phases={phases}"])
    (problem,) = error.value.problems
    assert problem.key == "run.phases"
    assert told in problem.message


def test_the_memory_of_phases_says_what_it_is_of() -> None:
    phases = "run.phases=[{name: a, tokens: 400M, seq_length: 2048}, {name: b, seq_length: 4096}]"
    text = traincast("evaluate", str(TINY), "--set", phases).stdout
    (head,) = (line for line in text.splitlines() if line.strip().startswith("phase "))
    assert head.split()[-1] == "allocated"
    assert "with what is outside the allocator" in text


def test_a_starting_scenario_shows_what_follows_from_its_plan() -> None:
    """Keys that it leaves out may be written as they stand: nothing changes."""
    text = starting_scenario("kimi-k2", 4096, "hgx-h200")
    shown = yaml.safe_load("\n".join(line.replace("# ", "", 1) for line in text.splitlines()
                                     if line.strip().startswith(("# dp:", "# schedule:", "tp:", "pp:"))))  # fmt: skip
    assert shown["dp"] * shown["tp"] * shown["pp"] == 4096
    assert shown["schedule"] == "1f1b"
