"""Text that is safe where it stands: shell words, comments of one line, names of jobs, Markdown."""

from __future__ import annotations

import json
import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from simulator.launch.tables import as_text

TEMPLATES = Path(__file__).parent / "templates"
_LONGEST_NAME = 63
_LONGEST_COMMENT = 120
_LONGEST_CELL = 400


def shell_word(value: Any) -> str:
    """A value as one word of a shell, quoted where it must be."""
    return shlex.quote(as_text(value))


def one_line(value: Any, most: int = _LONGEST_COMMENT) -> str:
    """A value without control characters, for comments and headings; long ones are cut."""
    text = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", as_text(value)).strip()
    return text if len(text) <= most else text[: most - 3] + "..."


def cell(value: Any) -> str:
    """A sentence in a cell of a Markdown table."""
    return one_line(value, _LONGEST_CELL).replace("|", "\\|")


def job_name(value: str) -> str:
    """A name that schedulers and DNS labels take: small letters, digits and dashes."""
    name = re.sub(r"[^a-z0-9]+", "-", value.lower()).strip("-")[:_LONGEST_NAME].strip("-")
    return name if name and name[0].isalpha() else f"run-{name}"[:_LONGEST_NAME].strip("-")


def markdown(value: Any) -> str:
    """A value as inline code of Markdown that cannot end itself, a table's cell or a line."""
    return "`" + one_line(value, _LONGEST_CELL).replace("`", "'").replace("|", "\\|") + "`"


def python_literal(value: Any) -> str:
    """A value as a Python literal; tuples become lists."""
    return repr(_listed(value))


def override_word(value: Any) -> str:
    """A value as Hydra's override grammar reads it: null, true, numbers, [lists], "quoted strings"."""
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, tuple):
        return "[" + ",".join(override_word(item) for item in value) + "]"
    text = str(value)
    return text if re.fullmatch(r"[A-Za-z_][\w-]*", text) else json.dumps(text, ensure_ascii=False)


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, tuple | list) else value


@cache
def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        comment_start_string="{##",  # Bash writes ${#array[@]}
        comment_end_string="##}",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    made.filters |= {
        "shell": shell_word,
        "line": one_line,
        "cell": cell,
        "md": markdown,
        "py": python_literal,
        "override": override_word,
        "text": as_text,
    }
    return made


def render(template: str, **values: Any) -> str:
    """A template of this room filled in; a name that it lacks raises jinja2's UndefinedError."""
    return _environment().get_template(template).render(values)
