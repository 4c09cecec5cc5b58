"""Signals that end a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bench import cli
from bench.config import compose
from bench.config.study import Study
from bench.driver import sweep
from bench.host import interrupt
from bench.host.interrupt import ENDING, Interrupted, interruptible, raise_if_interrupted
from bench.paths import CHECKOUT


@pytest.fixture(autouse=True)
def not_under_nohup() -> Iterator[None]:
    """These tests may themselves be run under nohup, which ignores SIGHUP for all that it starts."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
    left = signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    assert not left & set(ENDING), "a signal of the next test would go to another thread, which handles it too late"


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", list(ENDING))
def test_signals_interrupt_and_are_put_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match=number.name), interruptible():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


def test_a_batch_system_that_says_it_twice_does_not_end_what_ends_the_ranks() -> None:
    told = 0
    with pytest.raises(Interrupted, match="SIGUSR1"), interruptible():
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
        finally:
            for number in ENDING:
                os.kill(os.getpid(), number)
            told = 1
    assert told


def test_two_at_the_same_moment_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Slurm and the terminal may send them. Python said "Signal 12 ignored due to race condition", with a traceback."""
    said: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", said.append)
    with pytest.raises(Interrupted), interruptible():
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        for number in ENDING:
            signal.raise_signal(number)  # to this thread: another would take what the process gets
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    assert not said


def test_a_library_that_fails_over_one_hides_it_from_nobody() -> None:
    """OmegaConf, while Hydra was imported: its finally found a list half made, and the traceback was of an AttributeError."""
    with pytest.raises(Interrupted, match="SIGTERM"), interruptible():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            raise AttributeError("half made")
    with pytest.raises(AttributeError), interruptible():
        raise AttributeError("of its own")


def test_one_that_comes_when_all_is_said_changes_no_exit_code() -> None:
    code = """
import atexit, os, runpy, signal, sys
atexit.register(lambda: os.kill(os.getpid(), signal.SIGUSR1))
sys.argv = ["bench", "--version"]
runpy.run_module("bench", run_name="__main__")
"""
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, cwd=CHECKOUT).returncode == 0


def test_one_within_another_leaves_the_handlers_to_it() -> None:
    with pytest.raises(Interrupted, match="SIGTERM"), interruptible():
        with interruptible():
            pass
        os.kill(os.getpid(), signal.SIGTERM)


def test_another_thread_is_not_interruptible() -> None:
    def other() -> int:
        with interruptible():
            return 7

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(other).result() == 7


def test_one_that_comes_while_the_handlers_are_put_back_is_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was raised out of the block's end, past what was to catch it: a traceback."""
    before, put = signal.getsignal(signal.SIGTERM), signal.signal
    with interruptible():
        ours = signal.getsignal(signal.SIGTERM)
        assert callable(ours)

        def slow(number: signal.Signals, handler: Any) -> Any:
            if number == ENDING[0]:
                ours(signal.SIGTERM, None)
            return put(number, handler)

        monkeypatch.setattr(interrupt.signal, "signal", slow)
    monkeypatch.undo()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_that_was_dropped_is_raised_again() -> None:
    class Late:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGUSR1)

    with pytest.raises(Interrupted, match="SIGUSR1"), interruptible():
        raise_if_interrupted()
        late = Late()
        del late
        raise_if_interrupted()
    raise_if_interrupted()  # it is over


@pytest.mark.parametrize(("number", "words"), [(signal.SIGTERM, ["repeat=1"]), (signal.SIGHUP, ["plan"])])
def test_one_that_comes_while_the_words_are_read_is_said(
    number: signal.Signals, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def composes(overrides: Any) -> Any:
        os.kill(os.getpid(), number)

    monkeypatch.setattr(compose, "jobs_of", composes)
    assert cli.main(words) == 130
    assert capsys.readouterr().err.startswith(f"mallocost: interrupted ({number.name})")


def test_one_that_comes_while_the_sweep_ends_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the last record, while the others are told and the lock is given back: it was a traceback."""

    def run(study: Any, jobs: Any) -> int:
        with interruptible():
            os.kill(os.getpid(), signal.SIGTERM)
        return 0

    monkeypatch.setattr(compose, "jobs_of", lambda overrides: (Study("s"), []))
    monkeypatch.setattr(sweep, "run", run)
    assert cli.main(["repeat=1"]) == 130
    assert "interrupted (SIGTERM)" in capsys.readouterr().err
