"""Peak memory as the meters of published runs read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from simulator.predict.prediction import Prediction
    from simulator.scenario.spec import Meter


def metered_memory_bytes(prediction: Prediction, meter: Meter) -> float:
    """Peak memory of the fullest GPU in bytes by a meter."""
    if meter == "device":
        return prediction.device_memory_bytes
    if meter == "reserved":
        return max(each.peak_memory_bytes + each.outside_allocator_bytes["fragmentation"] for each in prediction.stages)
    return prediction.peak_memory_bytes
