"""What a launch takes from a prediction: the step, the interval of saves, the spare nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simulator.plain import plain

if TYPE_CHECKING:
    from simulator.predict.prediction import Prediction

STORAGE = "storage"


@dataclass(frozen=True, slots=True)
class Forecast:
    """What was predicted of the scenario; `checkpoint_every_s` by tier (`storage`, and `memory` or `local`)."""

    step_time_s: float
    step_time_interval_s: tuple[float, float]
    peak_memory_bytes: float
    fits: bool
    checkpoint_every_s: Mapping[str, float] = field(default_factory=dict)
    spares: int = 0
    finish_p50_s: float | None = None
    goodput_fraction: float | None = None

    def to_dict(self, stack: str) -> dict[str, Any]:
        """The forecast as a document; `stack`: the release that it stands on.

        An interval is null where nothing saves.
        """
        return {
            "stack": stack,
            "step_time_s": self.step_time_s,
            "step_time_interval_s": list(self.step_time_interval_s),
            "peak_memory_bytes": self.peak_memory_bytes,
            "fits": self.fits,
            "checkpoint_every_s": plain(self.checkpoint_every_s),
            "spare_nodes": self.spares,
            "finish_p50_s": self.finish_p50_s,
            "goodput_fraction": self.goodput_fraction,
        }


def forecast_of(prediction: Prediction) -> Forecast:
    """The part of a prediction that a launch takes."""
    run = prediction.run
    step = prediction.step_time_s, prediction.step_time_interval_s
    if run is None:
        return Forecast(*step, prediction.peak_memory_bytes, prediction.fits)
    finish_s = run.finish_s.to_dict()["p50"] if run.finishes else None
    return Forecast(
        *step,
        prediction.peak_memory_bytes,
        prediction.fits,
        checkpoint_every_s=run.checkpoint_every_s,
        spares=run.spares,
        finish_p50_s=finish_s,
        goodput_fraction=run.goodput_fraction,
    )
