"""Launch files: what a training framework and a scheduler need to run the plan that was predicted.

`tables` reads the data that says which setting of a target is which key of a scenario; `assemble` puts a launch
together from `answer` (what a target can be told), `targets` and `schedulers` (its files).
"""

from simulator.launch.assemble import Launch, launch, write_launch
from simulator.launch.schedulers import SCHEDULERS
from simulator.launch.targets import TARGETS

__all__ = ["SCHEDULERS", "TARGETS", "Launch", "launch", "write_launch"]
