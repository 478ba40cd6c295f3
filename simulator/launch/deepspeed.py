"""DeepSpeed's JSON, and what JSON cannot carry."""

from __future__ import annotations

from typing import Any

from simulator.launch.text import render
from simulator.launch.told import Told
from simulator.report.folder import json_text

# What DeepSpeed needs beside the table's keys, and nothing of a scenario decides.
_OPTIMIZER_PARAMS = {"AdamW": {"lr": 1.0e-4}, "Lamb": {"lr": 1.0e-3}, "SGD": {"lr": 1.0e-2}, "Muon": {"lr": 1.0e-3}}


def deepspeed_files(told: Told) -> dict[str, str]:
    """`ds_config.json` with `ds_config.keys.json`, which says whence each key comes: JSON has no comments."""
    config: dict[str, Any] = {}
    for each in told.expressed.settings:
        _write(config, each.name.split("."), each.value)
    if "optimizer" in config:
        config["optimizer"]["params"] = dict(_OPTIMIZER_PARAMS[config["optimizer"]["type"]])
    config["gradient_clipping"] = 1.0
    keys = {each.name: each.key for each in told.expressed.settings}
    train = render(
        "train_recipe.sh.j2",
        job=told.job,
        fault_tolerant=told.fault_tolerant,
        command='"$TRAIN_SCRIPT" --deepspeed --deepspeed_config "$here/ds_config.json"',
        needed=("TRAIN_SCRIPT",),
        fill_in=list(told.table.fill_in),
    )
    return {"ds_config.json": json_text(config), "ds_config.keys.json": json_text(keys), "train.sh": train}


def _write(config: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        config = config.setdefault(name, {})
    config[path[-1]] = list(value) if isinstance(value, tuple) else value
