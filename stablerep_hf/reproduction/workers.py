"""Tasks, done one after another or by several processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from typing import Any, Protocol

from ..errors import InputError


class Runner(Protocol):
    """Does tasks; it is pickled into each process."""

    def prepare(self) -> None:
        """Called once in each process, before the first task."""

    def run(self, task: Any) -> dict[str, Any]:
        """Do a task and return its record."""


_runner: Runner  # of one of several processes


def run_tasks(tasks: Sequence[Any], runner: Runner, jobs: int) -> Iterator[dict[str, Any]]:
    """Do tasks in this process or in several, and yield their records as they are done.

    Args:
        tasks: What `runner.run` takes.
        runner: Does them.
        jobs: Processes; 1 or fewer is this one. They end at once when the iterator is closed or this process dies,
            in whatever way.

    Raises:
        InputError: A process died. What a task raises is raised here.
    """
    if jobs <= 1:
        runner.prepare()
        yield from map(runner.run, tasks)
        return
    others = {*active_children()}
    pool = ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (runner,))
    try:
        for done in as_completed([pool.submit(_run, task) for task in tasks]):
            yield done.result()
    except BrokenProcessPool as error:
        raise InputError(
            f"One of jobs={jobs} processes died in the middle of its work (out of memory?): start again to go on, "
            "perhaps with fewer `jobs`."
        ) from error
    finally:
        for process in {*active_children()} - others:
            process.terminate()
        pool.shutdown(cancel_futures=True)


def _begin(runner: Runner) -> None:
    global _runner
    _runner = runner
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process answers to the keyboard
    threading.Thread(target=_end_with_parent, daemon=True).start()


@cache
def _prepare() -> None:
    _runner.prepare()  # with the first task, so that what it raises is raised in the first process


def _run(task: Any) -> dict[str, Any]:
    _prepare()
    return _runner.run(task)


def _end_with_parent() -> None:
    """End in the middle of a task when the first process is killed, instead of minutes later."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
