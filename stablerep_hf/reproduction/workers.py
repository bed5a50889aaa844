"""Tasks, done one after another or by several processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from ..errors import InputError


class Runner(Protocol):
    """Does tasks; it is pickled into each process."""

    def prepare(self) -> None:
        """Called once in each process, before the first task."""

    def run(self, task: Any) -> dict[str, Any]:
        """Do a task and return its record."""


def run_tasks(tasks: Sequence[Any], runner: Runner, jobs: int) -> Iterator[dict[str, Any]]:
    """Do tasks in this process or in several.

    Args:
        tasks: What `runner.run` takes.
        runner: Does them.
        jobs: Processes; 1 or fewer is this one. They end at once when the iterator is closed or this process dies,
            in whatever way.

    Yields:
        A record a task, as they are done.

    Raises:
        InputError: A process died. What a task raises is raised here.
    """
    if jobs <= 1:
        runner.prepare()
        yield from map(runner.run, tasks)
        return
    import multiprocessing
    from multiprocessing.connection import wait

    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(tasks))
    processes, connections = [], []
    try:
        for _ in range(jobs):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, runner), daemon=True)
            process.start()
            theirs.close()
            processes.append(process)
            connections.append(ours)
            ours.send(waiting.pop())
        while connections:
            ready: Any
            for ready in wait(connections):
                try:
                    record = ready.recv()
                except EOFError as error:
                    raise InputError(
                        f"One of jobs={jobs} processes died in the middle of its work (out of memory?): start again "
                        "to go on, perhaps with fewer `jobs`."
                    ) from error
                if isinstance(record, Exception):
                    raise record
                yield record
                if waiting:
                    ready.send(waiting.pop())
                else:
                    connections.remove(ready)
                    ready.close()
    finally:
        for process in processes:
            process.terminate()


def _work(connection: Any, runner: Runner) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process answers to the keyboard
    threading.Thread(target=_end_with_parent, daemon=True).start()
    runner.prepare()
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            answer: Any = runner.run(task)
        except Exception as error:
            answer = error
        try:
            connection.send(answer)
        except OSError:
            return


def _end_with_parent() -> None:
    """End in the middle of a task when the first process is killed, instead of minutes later."""
    from multiprocessing import parent_process
    from multiprocessing.connection import wait

    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
