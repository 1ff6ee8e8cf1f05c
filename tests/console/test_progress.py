"""Progress on a terminal is one line that is drawn over; in a log it is few plain lines."""

from __future__ import annotations

import os
import pty
import sys
import termios

import pytest

from toxfusion.console import progress
from toxfusion.console.progress import Progress


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    kept = Clock()
    monkeypatch.setattr(progress, "time", kept)
    return kept


def test_a_log_gets_a_line_each_tenth_and_thirty_seconds_at_most(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("pretrain", 1000, unit="steps", done=200) as shown:
        for step in range(201, 1001):
            clock.now += 0.125  # a tenth takes 12.5 s: the thirty seconds decide
            shown.show(loss=1 / step)
            shown.reach(step)
    fast = capsys.readouterr().err.splitlines()
    assert fast == [
        "pretrain: 440/1000 steps, loss 0.002273, 01:10 left",
        "pretrain: 680/1000 steps, loss 0.001471, 00:40 left",
        "pretrain: 920/1000 steps, loss 0.001087, 00:10 left",
        "pretrain: 1000/1000 steps, loss 0.001, took 01:40",
    ]
    with Progress("slides", 20, unit="slides") as shown:
        for _ in range(20):
            clock.now += 100.0  # slow: two slides are a tenth
            shown.advance()
    slow = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in slow] == [f"{n}/20" for n in range(2, 21, 2)]
    assert slow[-1] == "slides: 20/20 slides, took 33:20"


def test_a_log_hears_of_a_step_that_takes_long_and_nothing_of_work_that_was_done(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with Progress("slides", 5000, unit="slides") as shown:
        clock.now += progress.LOG_SILENCE
        shown.advance()
    assert capsys.readouterr().err.startswith("slides: 1/5000 slides, 1249:45:00 left\n")
    with Progress("slides", 40, unit="slides", done=40):
        pass
    with Progress("pretrain", 40, unit="steps", hidden=True) as shown:
        shown.reach(40)
    assert capsys.readouterr().err == ""


def test_a_terminal_shows_stage_step_loss_and_time_left_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    other_end, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 100))
    with os.fdopen(terminal, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        with Progress("finetune", 4, unit="steps") as shown:
            for step in range(1, 5):
                shown.show(loss=0.5 / step, valid=0.75)
                shown.reach(step)
        stream.flush()
        os.set_blocking(other_end, False)
        text = os.read(other_end, 100_000).decode()
    os.close(other_end)
    assert text.count("\n") == 1
    last = text.rstrip().rpartition("\r")[2]
    assert last.startswith("finetune 4/4 steps |")
    assert last.endswith("00:00 left, loss=0.125 valid=0.75")
