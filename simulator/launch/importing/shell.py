"""Reads shell text without running it: what it exports, and the words of the commands that it would run.

Variables, defaults (`${A:-b}`), arrays and whole-number arithmetic are worked out as far as the text itself says; what
a command or the environment would give stays unknown. Branches and loops are read as they stand, and marked.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from simulator.launch.importing.shell_tokens import Piece, Token, tokens

ENDS = (";", "&&", "||", "|", "&", ";;", "(", ")")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ASSIGNMENT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(\+?)=")
_DEFAULT = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(:?[-=])(.*)", re.DOTALL)
_ALL_OF_ARRAY = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)\[[@*]\]")
_OPENS = frozenset({"if", "for", "while", "until", "case", "select"})
_CLOSES = frozenset({"fi", "done", "esac"})
_KEYWORDS = frozenset({"then", "else", "elif", "do", "in", "!", "{", "}", "[[", "]]", "function", *_OPENS, *_CLOSES})
_DECLARES = frozenset({"export", "declare", "local", "readonly", "typeset", "set"})


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a command as it would be run; `text` None: not known without running something.

    `file`: the sourced file that it stands in; empty for the script itself.
    """

    text: str | None
    line: int
    branch: bool = False
    file: str = ""


@dataclass(frozen=True, slots=True)
class Variable:
    """What a variable holds: one text, or an array's words; its last line, and whether a branch set it."""

    words: tuple[Word, ...]
    line: int
    is_array: bool = False
    branch: bool = False

    @property
    def text(self) -> str | None:
        texts = [word.text for word in self.words]
        return None if any(text is None for text in texts) else " ".join(text or "" for text in texts)


@dataclass(slots=True)
class Script:
    """What was read of a script so far: variables, commands in order, comments by line, files sourced."""

    variables: dict[str, Variable] = field(default_factory=dict)
    commands: list[tuple[Word, ...]] = field(default_factory=list)
    comments: list[tuple[int, str]] = field(default_factory=list)
    sourced: list[Word] = field(default_factory=list)


# Gives what a file that is sourced by this name sets and runs; None where it is not at hand.
Sourcing = Callable[[Word], Script | None]


# -- what is set and run ----------------------------------------------------------------------------------


def read_script(text: str, known: Mapping[str, Variable] | None = None, sourcing: Sourcing | None = None) -> Script:
    """What a script sets and runs; `known` are variables that were set before.

    `sourcing` gives what a file that is sourced sets, where it is at hand.
    """
    script = Script(variables=dict(known or {}))
    statement: list[Token] = []
    depth = open_array = 0
    for token in [*tokens(text), Token("end", 0)]:
        if token.kind == "comment":
            script.comments.append((token.line, token.text))
            continue
        if token.kind == "operator" and token.text in "()" and (open_array or _opens_array(statement, token)):
            open_array += 1 if token.text == "(" else -1
            statement.append(token)
            continue
        if open_array and token.kind != "word":
            continue
        ends = token.kind == "end" or (
            token.kind == "operator" and token.text in (";", "&&", "||", "|", "&", ";;", "(", ")")
        )
        if not ends:
            statement.append(token)
            continue
        depth = _run(statement, script, depth, sourcing)
        # What follows && or || runs on a condition.
        depth += 1000 if token.text in ("&&", "||") else 0
        depth = depth % 1000 if token.text not in ("&&", "||") else depth
        statement = []
    return script


def _opens_array(statement: list[Token], token: Token) -> bool:
    last = statement[-1] if statement else None
    return token.text == "(" and last is not None and last.kind == "word" and bool(last.pieces) and \
        last.pieces[-1].text.endswith("=")  # fmt: skip


def _run(statement: list[Token], script: Script, depth: int, sourcing: Sourcing | None) -> int:
    """Takes in one statement; gives how many branches are open after it."""
    first = _plain(statement[0]) if statement else ""
    while statement and first in _KEYWORDS:
        depth += (first in _OPENS) - (first in _CLOSES)
        statement = statement[1:] if first not in ("for", "case", "select", "[[") else []
        first = _plain(statement[0]) if statement else ""
    if not statement:
        return depth
    branch = depth > 0
    if first in _DECLARES:
        statement = [token for token in statement[1:] if not _plain(token).startswith("-")]
    if first == "unset":
        for token in statement[1:]:
            script.variables.pop(_plain(token), None)
        return depth
    while statement and (named := _ASSIGNMENT.match(_plain(statement[0]))):
        statement = _assign(named, statement, script, branch)
    if not statement or first in _DECLARES:
        return depth
    words = tuple(word for token in statement if token.kind == "word" for word in expanded(token, script, branch))
    if first in ("source", ".") and len(words) > 1:
        name = _sourced_name(statement[1], words[1])
        script.sourced.append(name)
        found = sourcing(name) if sourcing else None
        if found is not None:
            script.variables |= found.variables
            script.commands += found.commands
        return depth
    if words:
        script.commands.append(words)
    return depth


def _sourced_name(token: Token, word: Word) -> Word:
    """The name of a file that is sourced; of a path that a command gives, the plain end."""
    if word.text is not None:
        return word
    last = token.pieces[-1]
    return Word(last.text.rpartition("/")[2] if last.kind == "text" else None, word.line, word.branch)


def _plain(token: Token) -> str:
    """The text that a word begins with, up to the first thing that must be worked out."""
    if token.kind != "word" or not token.pieces or token.pieces[0].kind != "text":
        return ""
    return token.pieces[0].text


def _assign(named: re.Match[str], statement: list[Token], script: Script, branch: bool) -> list[Token]:
    """Sets the variable that a statement begins with; gives what is left of the statement."""
    name, adds, token = named[1], bool(named[2]), statement[0]
    rest = statement[1:]
    if rest and rest[0].kind == "operator" and rest[0].text == "(":
        closed = next((n for n, each in enumerate(rest) if each.kind == "operator" and each.text == ")"), len(rest))
        words = tuple(w for each in rest[1:closed] if each.kind == "word" for w in expanded(each, script, branch))
        value = Variable(words, token.line, is_array=True, branch=branch)
        rest = rest[closed + 1 :]
    else:
        first = Piece("text", token.pieces[0].text[named.end() :], token.pieces[0].quoted)
        texts = [_value(piece, script) for piece in (first, *token.pieces[1:])]
        text = None if any(each is None for each in texts) else "".join(each or "" for each in texts)
        value = Variable((Word(text, token.line, branch),), token.line, branch=branch)
    before = script.variables.get(name)
    if adds and before is not None:
        value = Variable((*before.words, *value.words), value.line, before.is_array or value.is_array, branch)
    script.variables[name] = value
    return rest


def expanded(token: Token, script: Script, branch: bool) -> list[Word]:
    """The words that a word becomes: unquoted variables are split, arrays give every one of their words."""
    whole = _whole_array(token, script)
    if whole is not None:
        return [replace(word, branch=branch or word.branch) for word in whole]
    parts: list[tuple[str | None, bool]] = [
        (_value(piece, script), piece.quoted or piece.kind == "text") for piece in token.pieces
    ]
    if any(text is None for text, _ in parts):
        first = next((text for text, _ in parts), None)
        # `--flag=$unknown` still says which flag it is.
        name = first.partition("=")[0] if first and first.startswith("-") and "=" in first else None
        return [Word(f"{name}=", token.line, branch), Word(None, token.line, branch)] if name else [
            Word(None, token.line, branch)
        ]  # fmt: skip
    if len(parts) == 1 and not parts[0][1]:
        return [Word(text, token.line, branch) for text in (parts[0][0] or "").split()]
    return [Word("".join(text or "" for text, _ in parts), token.line, branch)]


def _whole_array(token: Token, script: Script) -> tuple[Word, ...] | None:
    """The words of `${NAME[@]}`, or of an unquoted `$NAME` that holds several; None for any other word."""
    pieces = [piece for piece in token.pieces if piece.text]
    if len(pieces) != 1 or pieces[0].kind != "variable":
        return None
    piece = pieces[0]
    array = _ALL_OF_ARRAY.fullmatch(piece.text)
    variable = script.variables.get(array[1] if array else piece.text)
    if variable is None:
        return None
    if array:
        return variable.words
    if piece.quoted or variable.text is None or variable.is_array:
        return None
    return tuple(part for word in variable.words for part in _split(word))


def _split(word: Word) -> Iterator[Word]:
    """The words of a text, each with its own line."""
    text = word.text or ""
    for found in re.finditer(r"\S+", text):
        yield Word(found[0], word.line + text.count("\n", 0, found.start()), word.branch)


def _value(piece: Piece, script: Script) -> str | None:
    """The text of a piece; None where only running it would tell."""
    if piece.kind == "text":
        return piece.text
    if piece.kind == "arithmetic":
        return _computed(piece.text, script)
    if piece.kind == "command":
        return None
    array = _ALL_OF_ARRAY.fullmatch(piece.text)
    if array or _NAME.fullmatch(piece.text):
        found = script.variables.get(array[1] if array else piece.text)
        return found.text if found else None
    default = _DEFAULT.fullmatch(piece.text)
    if default is None:
        return None
    known = script.variables.get(default[1])
    if known is not None:
        return known.text
    words = [_value(inner, script) for inner in _pieces_of(default[3])]
    text = None if any(word is None for word in words) else "".join(word or "" for word in words)
    if default[2].endswith("="):
        script.variables[default[1]] = Variable((Word(text, 0),), 0)
    return text


def _pieces_of(text: str) -> Iterator[Piece]:
    for token in tokens(text):
        yield from token.pieces


_OPERATIONS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.floordiv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def _computed(text: str, script: Script) -> str | None:
    """Whole-number arithmetic over known variables."""
    plain = re.sub(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)(?::-([0-9]+))?\}?", lambda found: _number_of(found, script), text)
    try:
        return str(_evaluated(ast.parse(plain.strip(), mode="eval").body, script))
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        return None


def _number_of(found: re.Match[str], script: Script) -> str:
    known = script.variables.get(found[1])
    return found[1] if known is not None or found[2] is None else found[2]


def _evaluated(node: ast.expr, script: Script) -> int:
    if isinstance(node, ast.Constant) and type(node.value) is int and abs(node.value) < 10**18:
        return node.value
    if isinstance(node, ast.Name):
        known = script.variables.get(node.id)
        return int((known.text if known else None) or "unknown")
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        value = _OPERATIONS[type(node.op)](_evaluated(node.left, script), _evaluated(node.right, script))
        if abs(value) < 10**18:
            return value
    raise ValueError("not whole-number arithmetic")
