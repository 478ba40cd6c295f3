"""How many bytes each pipeline rank holds, by owner, at its peak."""

from simulator.memory.report import RankMemory, memory_report

__all__ = ["RankMemory", "memory_report"]
