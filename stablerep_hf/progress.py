"""Progress of long work: a bar in a terminal, a line every 30 seconds elsewhere, nothing after `hide`."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

T = TypeVar("T")
SECONDS = 30.0
"""Between two lines where there is no terminal."""

_hidden = False


def hide(hidden: bool = True) -> None:
    """Show no progress in this process from now on (`--quiet`), or show it again."""
    global _hidden
    _hidden = hidden


def say(line: str, *, only_to_people: bool = False) -> None:
    """Write one line to standard error, above a bar if there is one; nothing after `hide`.

    Args:
        line: What to say.
        only_to_people: Write it in a terminal alone, where somebody waits for a sign of life.
    """
    if not _hidden and (sys.stderr.isatty() or not only_to_people):
        from tqdm import tqdm

        tqdm.write(line, file=sys.stderr)
        sys.stderr.flush()


def track(
    items: Iterable[T], what: str, *, unit: str = "image", total: int | None = None, shown: bool = True
) -> Iterator[T]:
    """Yield items and show how many are done; the arguments are those of `Progress`."""
    total = len(items) if total is None and isinstance(items, Sized) else total
    with Progress(what, total, unit=unit, shown=shown) as progress:
        for item in items:
            yield item
            progress.advance()


def _shows_bars() -> bool:
    """Whether a bar can be seen: in a notebook, and in a terminal that has rows, without which tqdm draws nothing."""
    if "ipykernel" in sys.modules or not sys.stderr.isatty():
        return "ipykernel" in sys.modules
    try:
        return os.get_terminal_size(sys.stderr.fileno()).lines > 0
    except OSError:
        return True


class Progress:
    """Shows on standard error how far some work is, how fast it goes and how long it will take; a context manager.

    Without a terminal or a notebook it writes a line after the first `advance`, one every 30 seconds, however long a
    step takes, and one at the end.

    Args:
        what: What is done, such as "training" or "reading split train".
        total: Units in all; None if nobody knows.
        unit: What is counted, in the singular.
        done: Units done before this run; they do not count in the speed.
        shown: False shows nothing, for all processes but the first.
    """

    def __init__(
        self, what: str, total: int | None = None, *, unit: str = "image", done: int = 0, shown: bool = True
    ) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done = self._before = done
        self.values: dict[str, float | str] = {}
        self._started = time.monotonic()
        self._bar: Any = None
        self._stopped = threading.Event()
        self._lines: threading.Thread | None = None
        self._written = -1  # units done when the last line was written
        if not shown or _hidden:
            return
        if _shows_bars():
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, initial=done, desc=what, unit=f" {unit}s", dynamic_ncols=True)
        else:
            self._lines = threading.Thread(target=self._write_lines, daemon=True)
            self._lines.start()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def advance(self, count: int = 1, **values: float | str) -> None:
        """Count units as done, and show values, such as a loss, beside them from now on."""
        self.done += count
        self.values.update(values)
        if self._bar is not None:
            if values:
                self._bar.set_postfix_str(self._shown_values(), refresh=False)
            self._bar.update(count)
        elif self._lines is not None and self._written < 0:
            self._write()

    def close(self) -> None:
        """Show the end; nothing follows. May be called twice."""
        self._stopped.set()
        if self._bar is not None:
            self._bar.close()
        elif self._lines is not None:
            self._lines.join()
            if self._written != self.done:
                self._write()
        self._bar = self._lines = None

    def __str__(self) -> str:
        seconds = time.monotonic() - self._started
        speed = (self.done - self._before) / max(seconds, 1e-9)
        of_total = "" if self.total is None else f" of {self.total:,}"
        parts = [f"{self.what}: {self.done:,}{of_total} {self.unit}s"]
        parts.append(f"{speed:,.0f} {self.unit}s/s" if speed >= 100 else f"{speed:.3g} {self.unit}s/s")
        if self.total is None or not speed:
            parts.append(f"{_duration(seconds)} so far")
        elif self.done >= self.total:
            parts.append(f"took {_duration(seconds)}")
        else:
            parts.append(f"{_duration((self.total - self.done) / speed)} left")
        return ", ".join([*parts, self._shown_values()] if self.values else parts)

    def _shown_values(self) -> str:
        return ", ".join(f"{name} {readable(value)}" for name, value in self.values.items())

    def _write(self) -> None:
        self._written = self.done
        print(self, file=sys.stderr, flush=True)

    def _write_lines(self) -> None:
        while not self._stopped.wait(SECONDS):
            self._write()


def readable(value: float | str) -> str:
    """Four significant digits of a number; text as it is."""
    return f"{value:.4g}" if isinstance(value, float) else f"{value}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
