"""Models written in the compact form are read back equal."""

from __future__ import annotations

import pytest

from simulator.model import catalogue
from simulator.model.inline import from_mapping
from simulator.model.written import to_mapping


@pytest.mark.parametrize("name", catalogue.names())
def test_every_model_of_the_catalogue_is_read_back_equal(name: str) -> None:
    model = catalogue.load(name)
    assert from_mapping(to_mapping(model)) == model


def test_equal_neighbours_are_one_entry_and_defaults_are_left_out() -> None:
    mapping = to_mapping(catalogue.load("llama-3.1-8b"))
    assert [entry["repeat"] for entry in mapping["layers"]] == [32]
    assert "mtp" not in mapping
    assert "parallel_blocks" not in mapping
