"""What traincast wrote itself: a launch's records are left out of an import, and a scenario needs none."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardware.problems import InputError
from simulator.launch import launch
from simulator.launch.assemble import write_launch
from simulator.launch.importing.importer import import_launch
from simulator.scenario.schema import load_scenario
from tests.simulator.launch_draws import FORECAST, SCENARIOS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A launch for DeepSpeed, whose settings' keys stand in a file of their own."""
    given = ["model=llama-3-8b", "plan={micro_batch_size: 1, global_batch_size: 64, stack: deepspeed-0.19}"]
    made = launch(load_scenario(SCENARIOS / "tiny.yaml", given), "deepspeed", "slurm", forecast=FORECAST)
    written = tmp_path_factory.mktemp("launch") / "run"
    write_launch(made, written)
    return written


def test_records_of_a_launch_are_left_out_with_a_note(folder: Path) -> None:
    config, keys, manifest = (folder / name for name in ("ds_config.json", "ds_config.keys.json", "manifest.json"))
    alone, together = (import_launch(paths) for paths in ([config], [config, keys, manifest]))
    assert [line for line in together.text.splitlines() if not line.startswith("#")] == [
        line for line in alone.text.splitlines() if not line.startswith("#")
    ]
    assert "ds_config.keys.json is the list of the scenario keys behind a launch's settings, left out" in together.notes
    assert "manifest.json is the manifest of a launch that traincast wrote, left out" in together.notes


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("scenario.yaml", "is a scenario already; `traincast evaluate "),
        ("manifest.json", "give the launch's own files"),
        ("ds_config.keys.json", "give the launch's own files"),
        (".", "is a folder; name the files in it"),
    ],
)
def test_what_states_no_launch_is_refused_in_words(folder: Path, name: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        import_launch([folder / name])
