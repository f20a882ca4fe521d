"""What files of their own add, and what they are told that name it wrongly."""

import pytest

from examples.methods import gram, plain, registry
from examples.models import mlp
from examples.models.registry import models
from examples.runner import discovery


def test_of_a_package_those_modules_count_that_have_the_variable():
    found = discovery.values("examples.models", "MODEL")
    assert found["mlp"] is mlp.MODEL
    assert "registry" not in found
    assert models() == found


def test_a_variable_of_a_similar_name_is_pointed_out(monkeypatch):
    monkeypatch.setattr(plain, "SWEEP", plain.SWEEPS, raising=False)
    monkeypatch.delattr(plain, "SWEEPS")
    with pytest.raises(AttributeError, match="plain has SWEEP: name it SWEEPS"):
        discovery.values("examples.methods", "SWEEPS")


def test_sweeps_that_are_no_list_are_refused(monkeypatch):
    monkeypatch.setattr(gram, "SWEEPS", gram.SWEEPS[0])
    with pytest.raises(TypeError, match="SWEEPS of gram.py must be a list"):
        registry.sweeps.__wrapped__()
