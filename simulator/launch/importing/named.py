"""Which catalogue model the words of a launch name, and which they only seem to: a smaller sibling."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from simulator.launch.tables import table
from simulator.model.catalogue import load, names
from simulator.model.parameters import total_parameters

LEAST_WORD = 5
# The target whose table says where its registry has a catalogue model.
REGISTRY = "torchtitan-0.3"
# Words that tell a sibling from the model whose name it bears.
VARIANTS = frozenset(
    ("air", "debug", "debugmodel", "distill", "dummy", "flash", "lite", "mini", "nano", "proxy", "small", "tiny", "toy")
)
# Parameters as a name writes them, and how far they may be from the catalogue's by rounding.
_SIZE = re.compile(r"(\d+(?:[._p]\d+)?)([mbt])")
_SCALE = {"m": 1e6, "b": 1e9, "t": 1e12}
SIZE_TOLERANCE = 0.1


def by_words(words: Iterable[str]) -> str | None:
    """The catalogue model whose name stands in one of the words, the longest of several; or a registry's name of it.

    None where a word with the name has a size or variant that the catalogue's model has not.
    """
    texts = [word.lower() for word in words]
    letters = [_letters(text) for text in texts]
    for name, place in table(REGISTRY).models.items():
        if any(_letters(place["module"].rpartition(".")[2] + place["flavor"]) == text for text in letters):
            return name
    best = _longest(texts)
    return best if best is not None and not _siblings(best, texts) else None


def sibling(words: Iterable[str]) -> str:
    """What is to be said where the words name a sibling of a catalogue model; empty where they do not."""
    texts = [word.lower() for word in words]
    best = _longest(texts)
    told = _siblings(best, texts) if best is not None else []
    return f"{told[0]} is not the catalogue's {best}" if told else ""


def quoted(words: Iterable[str], name: str) -> str:
    """The word that names the model."""
    spelled = [_letters(each) for each in _spellings(name)]
    return next((word for word in words if any(each in _letters(word) for each in spelled)), "torchtitan's registry")


def _longest(texts: Sequence[str]) -> str | None:
    letters = [_letters(text) for text in texts]
    for which in (0, 1):
        spelled = {name: _letters(_spellings(name)[which]) for name in names()}
        found = [
            name
            for name, spelling in spelled.items()
            if len(spelling) >= LEAST_WORD and any(spelling in text for text in letters)
        ]
        if found:
            return max(found, key=lambda name: len(_letters(name)))
    return None


def _spellings(name: str) -> tuple[str, str]:
    """A model's name, and its other one: Llama 3.1 is called llama3 as well."""
    return name, name.replace(".1-", "-")


def _siblings(name: str, texts: Iterable[str]) -> list[str]:
    """Words that hold the name beside a size or variant that the model has not."""
    return [text for text in texts if any(_is_other(name, token) for token in _tokens_beside(name, text))]


def _tokens_beside(name: str, text: str) -> Iterator[str]:
    """What else a word says that holds the model's name."""
    for spelled in _spellings(name):
        pattern = r"[^a-z0-9]*".join(_letters(spelled))
        found = re.search(pattern, text)
        if found:
            beside = f"{text[: found.start()]} {text[found.end() :]}"
            yield from re.findall(r"[a-z0-9]+(?:\.\d+[a-z]*)?", beside.replace("_", " "))
            return


def _is_other(name: str, token: str) -> bool:
    """Whether a word is a variant, or a number of parameters, that is not the catalogue model's."""
    size = _SIZE.fullmatch(token)
    if size is None:
        return token in VARIANTS
    parameters = float(re.sub("[_p]", ".", size[1])) * _SCALE[size[2]]
    own = total_parameters(load(name))
    return abs(parameters - own) > SIZE_TOLERANCE * own


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
