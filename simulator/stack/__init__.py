"""Software stacks as data: what a release of a training framework does by itself, by name and with sources.

`spec.Stack` lists the behaviours, `data/*.toml` holds one release each, `releases` reads them. What a behaviour means
in bytes, kernels and seconds stands with the part of the model that it changes; `losses` holds the cross-entropies,
`effects` which behaviours leave others without effect.
"""

from simulator.stack.releases import DEFAULT, Release, default_stack, names, newest, release
from simulator.stack.spec import Stack

__all__ = ["DEFAULT", "Release", "Stack", "default_stack", "names", "newest", "release"]
