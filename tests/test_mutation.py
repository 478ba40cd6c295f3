"""The mutation tester: what it changes, what it leaves alone, and that no sample depends on anything but its seed."""

from __future__ import annotations

from pathlib import Path

from tests.mutation import ROOMS, ROOT, difference, mutants, nearest_first, room_tests, sampled

SOURCE = '''"""Docstring of 1 + 2."""
HALF = 0.5


@dataclass(frozen=True)
class Kept:
    size: Literal["a", "b"] | None = None


def total(sizes: list[float], most: int = 3) -> float:
    if not sizes and most > 2:
        return 0.0
    if most == 1:
        raise ValueError(f"{1 + 2} is wrong")
    for left, right in zip(sizes, sizes, strict=True):
        most += 1
    return max(HALF, 2 * sum(size for size in sizes if size > 1.0)) if sizes else -1.0
'''


def changes() -> set[tuple[int, str, str]]:
    """Line, kind and the changed line of every change."""
    source = SOURCE.encode()
    return {
        (each.line, each.kind, each.applied(source).decode().splitlines()[each.line - 1].strip())
        for each in mutants(source)
    }


def test_each_kind_of_change() -> None:
    found = changes()
    last = "return max(HALF, 2 * sum(size for size in sizes if size > 1.0)) if sizes else -1.0"
    assert found >= {
        (2, "constant", "HALF = 0.75"),
        (10, "constant", "def total(sizes: list[float], most: int = 4) -> float:"),
        (11, "drop not", "if (sizes) and most > 2:"),
        (11, "and / or", "if not sizes or most > 2:"),
        (11, "comparison", "if not sizes and most <= 2:"),
        (11, "boundary", "if not sizes and most >= 2:"),
        (11, "constant", "if not sizes and most > 3:"),
        (11, "drop early return", "if False:"),
        (12, "constant", "return 1.0"),
        (13, "comparison", "if most != 1:"),
        (16, "operator", "most -= 1"),
        (17, "min / max", last.replace("max", "min")),
        (17, "operator", last.replace("2 *", "2 /")),
        (17, "drop term", last.replace("2 * sum(size for size in sizes if size > 1.0)", "(2)")),
        (17, "drop filter", last.replace("if size > 1.0", "if True")),
        (17, "swap arms", f"return ((-1.0) if (sizes) else ({last.removeprefix('return ').split(' if sizes')[0]}))"),
    }


def test_what_computes_nothing_is_left_alone() -> None:
    """Docstrings, decorators, annotations, texts of errors, checks of lengths."""
    assert not {line for line, _, _ in changes()} & {1, 5, 7, 14, 15}


def test_every_change_is_another_program() -> None:
    source = SOURCE.encode()
    applied = [each.applied(source) for each in mutants(source)]
    assert len(set(applied)) == len(applied)
    assert source not in applied


def test_samples_follow_their_seed() -> None:
    folder = "simulator/memory"
    assert folder in ROOMS
    first = sampled(folder, 1, 20, ROOT)
    assert first == sampled(folder, 1, 20, ROOT) != sampled(folder, 2, 20, ROOT)
    assert len(set(first)) == 20
    path, change = first[0]
    lines = difference(path, change, (ROOT / path).read_bytes()).splitlines()
    assert lines[0].startswith("@@")
    assert {line[0] for line in lines[1:]} == {"-", "+"}


def test_near_tests_come_first_and_slow_ones_only_where_they_belong() -> None:
    files = room_tests("simulator/run", ROOT)
    near = [path.name for path in nearest_first(files, Path("simulator/run/alternatives.py"))]
    assert near[0] == "test_run_alternatives.py"
    assert len(near) == len(files)
    other = [path.name for path in nearest_first(files, Path("simulator/run/work_clock.py"))]
    assert other[0] == "test_run_work_clock.py"
    assert "test_run_alternatives.py" not in other
