"""Results as plain values for documents and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def plain(value: Any) -> Any:
    """Dataclasses, mappings, sequences and NumPy scalars as dict, list, str, int, float, bool and None.

    Infinity, which JSON has not, becomes None: a time between failures where nothing fails.
    """
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value) and not isinstance(value, type):
        return {spec.name: plain(getattr(value, spec.name)) for spec in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    value = value.item() if hasattr(value, "item") else value
    return None if value in (math.inf, -math.inf) else value


def flat(data: Any, key: str = "") -> dict[str, Any]:
    """Nested mappings as one, under dotted keys."""
    if not isinstance(data, Mapping):
        return {key: data}
    entries: dict[str, Any] = {}
    for name, value in data.items():
        entries |= flat(value, f"{key}.{name}" if key else str(name))
    return entries
