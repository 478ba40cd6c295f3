"""Seconds by cause: what a piece of work costs the compute stream, and why."""

from __future__ import annotations

from dataclasses import dataclass, fields

from simulator.workload.operators import Number


@dataclass(frozen=True, slots=True)
class Seconds:
    """Time on the compute stream split by cause: computing, exposed tp / cp / ep communication, waiting
    for the host."""

    compute_s: Number = 0.0
    tp_s: Number = 0.0
    cp_s: Number = 0.0
    ep_s: Number = 0.0
    host_s: Number = 0.0

    @property
    def total_s(self) -> Number:
        return self.compute_s + self.tp_s + self.cp_s + self.ep_s + self.host_s

    def __add__(self, other: Seconds) -> Seconds:
        return Seconds(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(Seconds)))

    def __mul__(self, factor: Number) -> Seconds:
        return Seconds(*(getattr(self, f.name) * factor for f in fields(Seconds)))

    def by_cause(self) -> dict[str, Number]:
        return {f.name.removesuffix("_s"): getattr(self, f.name) for f in fields(Seconds)}


NO_TIME = Seconds()
