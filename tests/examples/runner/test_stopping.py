"""SIGTERM and Ctrl-C."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

from examples.runner.stopping import Preempted, Sigterm
from tests.examples.helpers import SIGNALS

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.parametrize(("name", "number"), SIGNALS.items())
def test_sigterm_stops_at_once_where_nothing_is_lost(name, number):
    before = signal.getsignal(number)
    with pytest.raises(Preempted) as info, Sigterm():
        os.kill(os.getpid(), number)
        pytest.fail("it went on")
    assert signal.getsignal(number) is before
    assert str(info.value) == name and not info.value.at_once


def test_a_second_ctrl_c_stops_at_once_where_the_first_is_held():
    reached = []
    with pytest.raises(Preempted) as info, Sigterm() as sigterm, sigterm.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        reached.append(sigterm.received)
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("it went on")
    assert reached == [True]
    assert info.value.at_once


ENDLESS = """
import jax
from examples.runner.stopping import Sigterm
endless = jax.jit(lambda x: jax.lax.while_loop(lambda y: y < 9, lambda y: y % 7, x))
compiled = endless.lower(1).compile()
with Sigterm() as sigterm, sigterm.deferred():
    print("computing", flush=True)
    compiled(1).block_until_ready()
"""


def test_a_second_ctrl_c_ends_what_is_compiled():
    """Python itself calls no handler until it returns, which here is never."""
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "computing\n"
    process.send_signal(signal.SIGINT)
    said = [process.stderr.readline() for _ in range(2)]
    assert said[1].startswith("Ctrl-C: saves and stops when the steps at hand are done")
    process.send_signal(signal.SIGINT)
    assert process.communicate()[1] == "Stopped at once by Ctrl-C.\n"
    assert process.returncode == 130
