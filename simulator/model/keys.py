"""Reading a mapping from outside: typed look-ups that note which keys were asked for and every problem found."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from reprlib import repr
from typing import Any, Final

from hardware.problems import InputError, Place, Problem, one_of

MOST = 10**8


class Required:
    """Marks a key without a default."""


REQUIRED: Final = Required()


class Keys:
    """One mapping being read.

    Look-ups take the key and its dialects' other names; a null counts as absent. A look-up that fails notes the
    problem and returns a harmless stand-in, so that one reading finds every problem; `finish` raises them all.
    """

    def __init__(self, values: Mapping[str, Any], place: Place, problems: list[Problem] | None = None):
        self.values = values
        self.place = place
        self.asked: set[str] = set()
        self.problems: list[Problem] = [] if problems is None else problems
        self.children: dict[str, Keys] = {}

    def problem(self, key: str, message: str) -> None:
        problem = self.place.under(key).problem(message)
        if problem not in self.problems:
            self.problems.append(problem)

    def has(self, *names: str) -> bool:
        """Whether any of these keys is there and not null."""
        self.asked.update(names)
        return any(self.values.get(name) is not None for name in names)

    def find(self, names: Sequence[str]) -> tuple[str, Any]:
        """The first of these keys that is there, and its value; two that contradict each other are a problem."""
        self.asked.update(names)
        present = [(name, self.values[name]) for name in names if self.values.get(name) is not None]
        if not present:
            return names[0], None
        first, written = present[0]
        for name, value in present[1:]:
            if value != written:
                self.problem(
                    name, f"{repr(value)} contradicts {first} {repr(written)}; they mean the same, so drop one"
                )
        return first, written

    def whole(self, *names: str, default: int | Required = REQUIRED, least: int = 1, most: int = MOST) -> int:
        """A whole number from `least` to `most`."""
        name, value = self.find(names)
        if value is None:
            if isinstance(default, Required):
                also = f" ({other(names)})" if len(names) > 1 else ""
                self.problem(name, f"missing; give a whole number{also}")
                return least
            return default
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.problem(name, f"{repr(value)} is not a whole number from {least} to {most}")
            return least
        return value

    def flag(self, *names: str, default: bool | Required = False) -> bool:
        """True or false."""
        name, value = self.find(names)
        if value is None and not isinstance(default, Required):
            return default
        if not isinstance(value, bool):
            self.problem(name, f"{repr(value)} is not true or false")
            return False
        return value

    def word(self, *names: str, allowed: Collection[str], default: str | Required = REQUIRED) -> str:
        """One of the `allowed` words."""
        name, value = self.find(names)
        if value is None and not isinstance(default, Required):
            return default
        if value is None:
            self.problem(name, f"missing; choose from {', '.join(sorted(allowed))}")
            return sorted(allowed)[0]
        if not isinstance(value, str) or value not in allowed:
            self.problem(name, one_of(value, allowed))
            return sorted(allowed)[0]
        return value

    def each(self, name: str, length: int, allowed: Collection[Any] | None = None) -> list[Any]:
        """A list of `length` items, each of the `allowed`; empty where it is wrong or absent."""
        _, value = self.find([name])
        if value is None:
            return []
        if not isinstance(value, list) or len(value) != length:
            self.problem(name, f"must be a list of {length} items, one per layer")
            return []
        wrong = [item for item in value if allowed is not None and not is_one_of(item, allowed)]
        if wrong:
            self.problem(name, f"{repr(wrong[0])} is not known; known: {listed(allowed or [])}")
            return []
        return value

    def wholes(self, name: str) -> list[int]:
        """A list of whole numbers of any length; empty where it is wrong or absent."""
        _, value = self.find([name])
        if value is None:
            return []
        if not isinstance(value, list) or not all(type(item) is int for item in value):
            self.problem(name, "must be a list of whole numbers")
            return []
        return value

    def inner(self, name: str) -> Keys:
        """A nested mapping, noting problems in the same list (empty where it is absent or no mapping)."""
        if name in self.children:
            return self.children[name]
        _, value = self.find([name])
        if value is not None and not isinstance(value, Mapping):
            self.problem(name, "must be a mapping")
            value = None
        self.children[name] = Keys(value or {}, self.place.under(name), self.problems)
        return self.children[name]

    def finish(self, harmless: Collection[str] | None = None) -> None:
        """Raise one InputError with every problem found, keys that nobody asked for among them."""
        self.leftovers(harmless)
        if self.problems:
            raise InputError(self.problems)

    def leftovers(self, harmless: Collection[str] | None = None) -> None:
        """Note every key that nobody asked for, nested ones too.

        In a config from elsewhere, known by its list of `harmless` keys, one that is null or false switches nothing
        on and passes.
        """
        for name, value in self.values.items():
            if name in self.asked:
                continue
            if harmless is None:
                self.problem(str(name), one_of(name, self.asked))
            elif name not in harmless and value is not None and value is not False:
                message = "not understood, and it may change the model's size or work; remove it if it does not"
                self.problem(str(name), f"{repr(value)} is {message}")
        for child in self.children.values():
            child.leftovers(harmless)


def is_read(hidden: int) -> bool:
    """Whether a width was read: 1, which no model has, stands in for one that is missing or wrong."""
    return hidden > 1


def other(names: Sequence[str]) -> str:
    return "or " + ", ".join(names[1:])


def is_one_of(item: object, allowed: Collection[Any]) -> bool:
    """Whether a plain word or number is among those allowed."""
    return type(item) in (str, int) and item in allowed


def listed(allowed: Collection[Any]) -> str:
    """The allowed values in words; of many only the first and the last."""
    values = sorted(allowed)
    return ", ".join(map(str, values)) if len(values) <= 12 else f"{values[0]} to {values[-1]}"
