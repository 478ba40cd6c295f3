"""Fluid flows that share links max-min fairly: the rates at one moment, and the times at which flows finish.

Pure arrays; nothing here knows what a link is. A path is a column of link indices; shorter paths are padded with the
index `len(capacity)`, a link without limit. Flows over one path with one cap share alike and are solved as one with a
weight.
"""

from hardware.flows.alike import fold, merge, without_idle_limits
from hardware.flows.max_min import max_min_rates
from hardware.flows.simulation import CapacityChange, FlowTimes, simulate

__all__ = ["CapacityChange", "FlowTimes", "fold", "max_min_rates", "merge", "simulate", "without_idle_limits"]
