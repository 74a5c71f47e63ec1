"""A request to stop is a note; what is ignored stays ignored; what was there before comes back."""

import os
import signal
import sys

import pytest

from qgf_jax.errors import Stopped
from qgf_jax.runs.signals import StopRequest


@pytest.fixture(autouse=True)
def nothing_ignored():
    """As in a shell's foreground, wherever the tests were started."""
    before = {ask: signal.getsignal(ask) for ask in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for ask, handler in before.items():
        signal.signal(ask, handler)


@pytest.mark.parametrize("ask", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_noted_and_raised_where_it_suits(ask):
    before = signal.getsignal(ask)
    with StopRequest() as stop:
        stop.check("nothing")
        os.kill(os.getpid(), ask)
        assert stop.wanted == ask
        with pytest.raises(Stopped, match="saved") as stopped:
            stop.check("saved")
    assert stopped.value.code == 128 + ask
    assert signal.getsignal(ask) == before


def test_an_ignored_signal_stays_ignored():
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.wanted
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_among_several_processes_the_first_is_sent_on_and_the_second_ends(monkeypatch):
    """SIGTERM is heard by all of them; whoever cannot save any more ends by a second one."""
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append("SIGTERM"))
    monkeypatch.setattr(os, "_exit", sys.exit)  # or this process would end
    try:
        with StopRequest(forward=True) as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert (heard, stop.sent, stop.wanted) == (["SIGTERM"], signal.SIGINT, 0)
            with pytest.raises(SystemExit) as left:
                os.kill(os.getpid(), signal.SIGINT)
            assert (heard, left.value.code) == (["SIGTERM"], 130)
    finally:
        signal.signal(signal.SIGTERM, before)
