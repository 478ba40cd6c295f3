"""Takes shell text apart into words, operators, comments and ends of lines, each with its line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

MOST_WORDS = 200_000
OPERATORS = ";|&()<>"
LONG_OPERATORS = ("<<<", "<<-", "<<", "&&", "||", ";;", ">>")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a word: plain text, a variable's name with what follows it in braces, arithmetic, or a command."""

    kind: str  # text, variable, arithmetic, command
    text: str
    quoted: bool


@dataclass(frozen=True, slots=True)
class Token:
    """A word of pieces, an operator, a comment or the end of a line (`kind` word, operator, comment, end)."""

    kind: str
    line: int
    text: str = ""
    pieces: tuple[Piece, ...] = ()


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a script. Quotes that are not closed end with the text."""
    reader = _Reader(text)
    count = 0
    while (token := reader.next_token()) is not None:
        count += 1
        if count > MOST_WORDS:
            raise ValueError(f"holds more than {MOST_WORDS} words")
        yield token


@dataclass(slots=True)
class _Reader:
    text: str
    at: int = 0
    line: int = 1
    heredocs: list[str] = field(default_factory=list)
    wants_delimiter: bool = False

    def next_token(self) -> Token | None:
        self._skip_blanks()
        if self.at >= len(self.text):
            return None
        mark, line = self.text[self.at], self.line
        if mark == "\n":
            self._end_line()
            return Token("end", line)
        if mark == "#":
            end = self.text.find("\n", self.at)
            end = len(self.text) if end < 0 else end
            comment, self.at = self.text[self.at : end], end
            return Token("comment", line, comment)
        if mark in OPERATORS:
            return self._operator(line)
        pieces = tuple(self._pieces())
        if self.wants_delimiter:
            self.heredocs.append("".join(piece.text for piece in pieces))
            self.wants_delimiter = False
        return Token("word", line, pieces=pieces)

    def _skip_blanks(self) -> None:
        while self.at < len(self.text):
            if self.text[self.at] in " \t\r":
                self.at += 1
            elif self.text.startswith(("\\\n", "\\\r\n"), self.at):
                self.at = self.text.index("\n", self.at) + 1
                self.line += 1
            else:
                return

    def _end_line(self) -> None:
        """Passes a line's end, and the documents that the line announced."""
        self.at, self.line = self.at + 1, self.line + 1
        for delimiter in self.heredocs:
            while self.at < len(self.text):
                end = self.text.find("\n", self.at)
                end = len(self.text) if end < 0 else end
                row, self.at, self.line = self.text[self.at : end], end + 1, self.line + 1
                if row.strip() == delimiter:
                    break
        self.heredocs = []

    def _operator(self, line: int) -> Token:
        long = (each for each in LONG_OPERATORS if self.text.startswith(each, self.at))
        found = next(long, self.text[self.at])
        self.at += len(found)
        self.wants_delimiter = found in ("<<", "<<-")
        return Token("operator", line, found)

    def _pieces(self) -> Iterator[Piece]:
        """The pieces of the word that begins here."""
        plain: list[str] = []
        while self.at < len(self.text):
            mark = self.text[self.at]
            if mark in " \t\r\n" or mark in OPERATORS:
                break
            if mark == "\\":
                plain.append(self._escaped())
            elif mark == "'":
                yield from _flushed(plain)
                yield Piece("text", self._until("'"), quoted=True)
            elif mark == '"':
                yield from _flushed(plain)
                yield from self._quoted()
            elif mark in "$`":
                yield from _flushed(plain)
                yield self._expansion(quoted=False)
            else:
                plain.append(mark)
                self.at += 1
        yield from _flushed(plain)

    def _escaped(self) -> str:
        following = self.text[self.at + 1 : self.at + 2]
        self.at += 2
        # A continued line keeps its end, so that the words behind it know their line.
        self.line += following == "\n"
        return following

    def _until(self, quote: str) -> str:
        end = self.text.find(quote, self.at + 1)
        end = len(self.text) if end < 0 else end
        inner, self.at = self.text[self.at + 1 : end], end + 1
        self.line += inner.count("\n")
        return inner

    def _quoted(self) -> Iterator[Piece]:
        """What stands between double quotes, at least an empty text."""
        self.at += 1
        plain: list[str] = [""]
        while self.at < len(self.text) and self.text[self.at] != '"':
            mark = self.text[self.at]
            if mark == "\\":
                plain.append(self._escaped())
            elif mark in "$`":
                yield from _flushed(plain, quoted=True)
                yield self._expansion(quoted=True)
            else:
                self.line += mark == "\n"
                plain.append(mark)
                self.at += 1
        self.at += 1
        yield from _flushed(plain, quoted=True)

    def _expansion(self, quoted: bool) -> Piece:
        """`$name`, `${...}`, `$((...))`, `$(...)` or `...` in backticks."""
        if self.text[self.at] == "`":
            return Piece("command", self._until("`"), quoted)
        if self.text.startswith("$((", self.at):
            inner = self._balanced("((", 3)
            return Piece("arithmetic", inner.removesuffix(")"), quoted)
        if self.text.startswith("$(", self.at):
            return Piece("command", self._balanced("(", 2), quoted)
        if self.text.startswith("${", self.at):
            return Piece("variable", self._balanced("{", 2), quoted)
        name = _NAME.match(self.text, self.at + 1)
        if name is None:
            self.at += 2 if self.text[self.at + 1 : self.at + 2] in "@*#?$!0123456789-" else 1
            return Piece("command", "", quoted)
        self.at = name.end()
        return Piece("variable", name[0], quoted)

    def _balanced(self, opening: str, skip: int) -> str:
        """What stands up to the bracket that closes `opening`; the closing one is passed."""
        pair = {"(": ")", "{": "}"}[opening[0]]
        begin, depth = self.at + skip, len(opening)
        at = begin
        while at < len(self.text) and depth:
            depth += (self.text[at] == opening[0]) - (self.text[at] == pair)
            at += 1
        inner = self.text[begin : at - 1]
        self.line += inner.count("\n")
        self.at = at
        return inner


def _flushed(plain: list[str], quoted: bool = False) -> Iterator[Piece]:
    if plain:
        yield Piece("text", "".join(plain), quoted)
        plain.clear()
