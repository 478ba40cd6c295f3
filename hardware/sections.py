"""Takes the values out of one mapping of an input, key by key, and collects every problem on the way."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hardware import units
from hardware.problems import InputError, Place, Problem, one_of

_MISSING: Any = object()
MOST_COUNT = 2**63
MOST_DIGITS = 9


class Section:
    """One mapping while it is read: each taker names a key, checks its value, and returns something of its type.

    A value stands alone or beside its source, `{value: 700 W, source: data sheet}`; sources are collected by dotted
    key. After a problem a taker returns a stand-in, so that reading goes on; `raise_problems` ends it.
    Every number is finite and not negative; unless `zero` is set it is positive. `of_machine` refuses values that no
    part of a machine has; the sections below keep it.
    """

    def __init__(
        self, data: object, place: Place, above: Section | None = None, key: str = "", of_machine: bool = False
    ) -> None:
        self.place = place
        self.of_machine: bool = above.of_machine if above else of_machine
        self.problems: list[Problem] = above.problems if above else []
        self.sources: dict[str, str] = above.sources if above else {}
        self.prefix = f"{key}." if key else ""
        self.seen: set[str] = set()
        if not isinstance(data, Mapping):
            self.problems.append(place.problem(f"must be a mapping of keys to values, not {_kind(data)}"))
        self.data: Mapping[str, Any] = data if isinstance(data, Mapping) else {}
        self.broken = not isinstance(data, Mapping)

    def report(self, key: str, message: str) -> None:
        problem = self.place.under(key).problem(message)
        if problem not in self.problems:
            self.problems.append(problem)

    def report_unreadable(self, key: str, message: str) -> None:
        """Reports a key that is not known, or a value that is none of its kind whatever the other keys say."""
        self.problems.append(self.place.under(key).problem(message, is_unreadable=True))

    def take(self, key: str, default: Any = _MISSING, example: str = "") -> Any:
        """The plain value of a key, or the default; a missing key without default is reported and gives None.

        `example`: words for what could be written.
        """
        self.seen.add(key)
        if key not in self.data:
            if default is _MISSING and not self.broken:
                self.report(key, f"is missing; write {example}" if example else "is missing")
            return None if default is _MISSING else default
        value = self.data[key]
        if isinstance(value, Mapping) and "value" in value:
            for unknown in sorted(set(value) - {"value", "source"}):
                self.report(f"{key}.{unknown}", "is not known beside a value; only source is")
            source = value.get("source")
            if source is not None:
                self.sources[self.prefix + key] = str(source)
            value = value["value"]
        if value is None and default is _MISSING:
            self.report(key, "is empty; write a value")
        return default if value is None and default is not _MISSING else value

    def quantity(self, key: str, dimension: str, default: Any = _MISSING, zero: bool = False) -> Any:
        """A float in SI from a quantity with its unit."""
        value = self.take(key, default, f"e.g. {units.EXAMPLES[dimension]}")
        if value is default or value is None:
            return value
        try:
            amount = units.parse(value, dimension, bare=False)
        except units.QuantityError as error:
            self.report_unreadable(key, str(error))
            return float("nan")
        if amount == 0 and not zero:
            self.report(key, f"must be above zero; write e.g. {units.EXAMPLES[dimension]}")
        self._check_plausible(key, amount, dimension)
        return amount

    def _check_plausible(self, key: str, amount: float, dimension: str) -> None:
        wrong = units.implausible(amount, dimension) if self.of_machine else units.unreal(amount, dimension)
        if wrong:
            self.report(key, wrong)

    def count(self, key: str, default: Any = _MISSING) -> Any:
        """A positive integer; None where it could not be read."""
        value = self.take(key, default, "a whole number of at least 1")
        if value is None or value is default:
            return value
        whole = int(value) if isinstance(value, float) and value.is_integer() else value
        if isinstance(whole, bool) or not isinstance(whole, int) or not 1 <= whole < MOST_COUNT:
            shown = str(value).lower() if isinstance(value, bool) else repr(value)
            message = f"must be a whole number of at least 1, not {shown[:40]}"
            self.report_unreadable(key, message + _thousands(value))
            return None
        self._check_plausible(key, float(whole), "count")
        return whole

    def text(self, key: str, default: Any = _MISSING, example: str = "") -> Any:
        value = self.take(key, default, example)
        if value is not None and value is not default and not isinstance(value, str):
            self.report_unreadable(key, f"must be text, not {_kind(value)}")
            return str(value)
        return value

    def choice(self, key: str, choices: Collection[str], default: Any = _MISSING) -> Any:
        value = self.text(key, default, f"one of {', '.join(sorted(choices))}")
        if value is not None and value is not default and value not in choices:
            self.report_unreadable(key, one_of(value, choices))
        return value

    def flag(self, key: str, default: Any = _MISSING) -> Any:
        value = self.take(key, default)
        if value is not None and not isinstance(value, bool):
            self.report_unreadable(key, f"must be true or false, not {value!r}")
            return False
        return value

    def section(self, key: str) -> Section:
        """The mapping under a key, to be read likewise and closed with `done`."""
        self.seen.add(key)
        data = self.data.get(key)
        if data is None and not self.broken:
            self.report(key, f"is {'empty' if key in self.data else 'missing'}; write its keys below it")
        below = Section({} if data is None else data, self.place.under(key), self, self.prefix + key)
        below.broken = below.broken or data is None
        return below

    def sections(self, key: str) -> list[Section]:
        """The mappings of the list under a key."""
        items = self.take(key)
        if items is not None and not isinstance(items, list):
            self.report(key, f"must be a list, not {_kind(items)}")
        if not isinstance(items, list):
            return []
        return [
            Section(item, self.place.under(f"{key}.{number}"), self, f"{self.prefix}{key}.{number}")
            for number, item in enumerate(items)
        ]

    def done(self) -> None:
        """Reports the keys that nothing asked for."""
        for key in self.data:
            if key not in self.seen:
                self.report_unreadable(str(key), one_of(key, self.seen) if self.seen else "is not known")

    def raise_problems(self) -> None:
        if self.problems:
            raise InputError(self.problems)


def _thousands(value: object) -> str:
    """What a count written as 128k may mean, as words behind a message."""
    text = str(value).strip().lower()
    digits = text.removesuffix("k")
    if digits == text or not (digits.isascii() and digits.isdigit()) or len(digits) > MOST_DIGITS:
        return ""
    return f". Write {int(digits) * 1024} or {int(digits) * 1000}"


def _kind(value: object) -> str:
    kinds = {dict: "a mapping", list: "a list", str: "text", bool: "true or false", type(None): "empty"}
    return kinds.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)
