"""The house has floors: a module imports only from its own floor's package or from floors below."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Highest first. Packages on one line share a floor and must not import each other in a circle.
FLOORS: list[list[str]] = [
    ["simulator.cli", "validate"],
    ["simulator.report", "simulator.launch"],
    ["simulator.planner"],
    ["simulator.predict"],
    ["simulator.scenario"],
    ["simulator.run"],
    ["simulator.outer_loop"],
    ["simulator.step"],
    ["simulator.cost", "simulator.memory"],
    ["simulator.workload"],
    ["simulator.plans"],
    ["simulator.optimizers", "simulator.schedules", "simulator.stack"],
    ["simulator.model"],
    ["simulator.executor", "simulator.fields", "simulator.plain"],
    ["hardware"],
]
HARDWARE = ["hardware.collectives", "hardware.flows", "hardware.routing", "hardware.shortest_paths",
            "hardware.topology", "hardware.catalogue", "hardware.kernels", "hardware.specs",
            "hardware.precisions", "hardware.units"]  # fmt: skip
ONLY_HOMES = {
    "torch": ["validate"],
    "simpy": ["simulator.step", "simulator.outer_loop", "simulator.run"],
    "networkx": ["hardware.topology"],
}


@cache
def modules() -> list[tuple[str, Path]]:
    found = []
    for package in ("hardware", "simulator", "validate"):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.append((".".join(parts[:-1] if parts[-1] == "__init__" else parts), path))
    return found


@cache
def imports(path: Path, module: str) -> list[tuple[str, bool]]:
    """Names imported by a file, each with whether it happens inside a function (lazily)."""
    tree = ast.parse(path.read_text())
    lazy = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in lazy) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import; write the whole name"
            found += [(f"{node.module}.{alias.name}", id(node) in lazy) for alias in node.names]
    return found


def floor(name: str, floors: list[list[str]]) -> int | None:
    for number, rooms in enumerate(floors):
        if any(name == room or name.startswith(room + ".") for room in rooms):
            return number
    return None


@pytest.mark.parametrize(("module", "path"), modules(), ids=lambda value: value if isinstance(value, str) else "")
def test_imports_go_down(module: str, path: Path) -> None:
    own = floor(module, FLOORS)
    for name, lazy in imports(path, module):
        other = floor(name, FLOORS)
        if own is None or other is None or (lazy and module == "simulator.cli"):
            continue
        assert other >= own, f"{module} imports {name} from a floor above"
    for name, _ in imports(path, module):
        mine, theirs = floor(module, [[h] for h in HARDWARE]), floor(name, [[h] for h in HARDWARE])
        if mine is not None and theirs is not None:
            assert theirs >= mine, f"{module} imports {name}, which stands above it"


@pytest.mark.parametrize("library", sorted(ONLY_HOMES))
def test_heavy_libraries_stay_home(library: str) -> None:
    for module, path in modules():
        for name, _ in imports(path, module):
            if name.split(".")[0] == library:
                assert floor(module, [[home] for home in ONLY_HOMES[library]]) is not None, f"{module} imports {name}"
