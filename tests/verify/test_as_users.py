"""The verification command, of which the programs are compiled as its users' are."""

import pytest

from classp_jax.verify.__main__ import main
from tests import helpers


@pytest.mark.parametrize("reading", [*helpers.READINGS, "gram"])
def test_the_default_run_agrees(reading, capsys):
    assert main(["--reading", reading]) == 0
    assert "AGREE: every difference is within" in capsys.readouterr().out


def test_a_run_on_a_model_agrees(capsys):
    assert main(["--problem", "cnn"]) == 0
    assert "AGREE: every difference is within" in capsys.readouterr().out
