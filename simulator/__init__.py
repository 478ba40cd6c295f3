"""What happens on a cluster that trains a model: scenarios in, predictions out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.planner.compare import compare
    from simulator.planner.options import SearchOptions
    from simulator.planner.planning import plan
    from simulator.planner.size import size
    from simulator.predict.prediction import Prediction, evaluate
    from simulator.scenario.schema import Scenario, load_scenario

__all__ = ["Prediction", "Scenario", "SearchOptions", "compare", "evaluate", "load_scenario", "plan", "size"]
_HOMES = {
    "Prediction": "simulator.predict.prediction",
    "compare": "simulator.planner.compare",
    "evaluate": "simulator.predict.prediction",
    "Scenario": "simulator.scenario.schema",
    "load_scenario": "simulator.scenario.schema",
    "SearchOptions": "simulator.planner.options",
    "plan": "simulator.planner.planning",
    "size": "simulator.planner.size",
}


def __getattr__(name: str) -> Any:
    """Imported on first use, so that the command line starts fast."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
