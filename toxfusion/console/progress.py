"""How far a piece of work is: a bar of one line on a terminal, a plain line now and then in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any

from tqdm import tqdm

BAR = "{desc} {n_fmt}/{total_fmt} {unit} |{bar:24}| {elapsed}, {remaining} left{postfix}"
LOG_SHARE = 0.1
"""A log gets a line when this share of the work is done since the last one,"""
LOG_SECONDS = 30.0
"""and not sooner than this after it;"""
LOG_SILENCE = 900.0
"""or after this long whatever is done."""


class Progress:
    """How far one piece of work is, on stderr.

    On a terminal it is a bar that is drawn over itself. Elsewhere it is plain lines, at most one each tenth of the
    work and each 30 s, and one at the end: a log gets no carriage returns.

    Args:
        stage: what is done, "pretrain" for example.
        total: how many there are to do.
        unit: what they are, in the plural.
        done: how many were done before.
        hidden: say nothing: another rank's, or not wanted.
    """

    def __init__(self, stage: str, total: int, *, unit: str, done: int = 0, hidden: bool = False) -> None:
        self.stage, self.total, self.unit, self.done = stage, total, unit, done
        self._before, self._hidden, self._values = done, hidden, dict[str, str]()
        self._began = self._told_at = time.monotonic()
        self._told = done
        self._bar: tqdm[Any] | None = None
        if not hidden and sys.stderr.isatty():
            self._bar = tqdm(
                total=total, initial=done, desc=stage, unit=unit, bar_format=BAR, dynamic_ncols=True
            )

    def advance(self, n: int = 1) -> None:
        """So many more are done."""
        self.reach(self.done + n)

    def reach(self, done: int) -> None:
        """So many are done in all."""
        self.done = done
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        elif not self._hidden and done < self.total and self._is_due():
            self._told, self._told_at = done, time.monotonic()
            self._tell(f"{_clock(self._left())} left")

    def show(self, **values: float | int) -> None:
        """Numbers beside the count from now on: a loss, how many failed."""
        self._values.update(
            {
                name: f"{value:.4g}" if isinstance(value, float) else str(value)
                for name, value in values.items()
            }
        )
        if self._bar is not None:
            self._bar.set_postfix_str(" ".join(f"{k}={v}" for k, v in self._values.items()), refresh=False)

    def close(self) -> None:
        """The last word; nothing where nothing was done."""
        if self._bar is not None:
            self._bar.close()
        elif not self._hidden and self.done > self._before:
            self._tell(f"took {_clock(time.monotonic() - self._began)}")
        self._hidden, self._bar = True, None

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _is_due(self) -> bool:
        silence = time.monotonic() - self._told_at
        return silence >= LOG_SILENCE or (
            silence >= LOG_SECONDS and self.done - self._told >= LOG_SHARE * self.total
        )

    def _left(self) -> float:
        """Seconds that the rest will take at the pace so far."""
        pace = (time.monotonic() - self._began) / max(self.done - self._before, 1)
        return pace * (self.total - self.done)

    def _tell(self, time_said: str) -> None:
        values = [f"{name} {value}" for name, value in self._values.items()]
        count = f"{self.stage}: {self.done}/{self.total} {self.unit}"
        print(", ".join([count, *values, time_said]), file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    return tqdm.format_interval(round(seconds))
