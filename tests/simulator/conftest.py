"""Small helpers that several tests of the simulator share."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulator.scenario.schema import Scenario, load_scenario

SCENARIOS = Path(__file__).parents[2] / "scenarios"


@pytest.fixture(scope="session")
def deepseek() -> Scenario:
    """DeepSeek-V3 on 2,048 H800."""
    return load_scenario(SCENARIOS / "deepseek-v3-2048xh800.yaml")
