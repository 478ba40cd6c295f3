"""Terminal rows of all jobs of a cluster: when each holds its GPUs, when the last ends, what all of them cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardware.units import format_energy, format_fraction, format_seconds, format_usd

Row = tuple[str, str]


def job_rows(found: Mapping[str, Any] | None) -> list[Row]:
    """The schedule; nothing where the run is the only job."""
    if found is None:
        return []
    rows = [("Job", _job(job)) for job in found["jobs"]]
    ends = found["makespan_s"]
    p10, p50, p90 = (_time(ends[name]) for name in ("p10", "p50", "p90"))
    idle = f"{format_fraction(found['idle_fraction'])} of the cluster's GPU-hours idle"
    rows.append(("All jobs", f"{p50} (P10 {p10}, P90 {p90}); {idle}"))
    paid = [format_usd(found["cost_usd"])] if found["cost_usd"] is not None else []
    used = [format_energy(found["energy_j"])] if found["energy_j"] is not None else []
    if paid or used:
        rows.append(("All jobs", ", ".join([*paid, *used]) + " from the first start to the last end"))
    return rows


def _job(job: Mapping[str, Any]) -> str:
    if job["start_s"] is None:
        return f"{job['name']}: never starts"
    gpus = f"on {job['gpus']:,} GPUs" if job["gpus"] else "on no GPU"
    start = _time(job["start_s"]) if job["start_s"] else "the start"
    return f"{job['name']}: from {start} to {_time(job['end_s'])} {gpus}"


def _time(seconds: float | None) -> str:
    return "never" if seconds is None else format_seconds(seconds)
