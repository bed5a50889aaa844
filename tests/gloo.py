"""N processes that talk through gloo on this machine's CPU, for tests of what happens between ranks.

Use the fixture `run_on_gloo` (tests/conftest.py), which keeps the processes between tests: starting one costs the
seconds that importing torch takes. What is run must be a function at the top level of a test module, its arguments and
results must pickle.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any


class GlooRanks:
    """`world_size` processes, each a rank of one gloo process group; call it to run a function on all of them."""

    def __init__(self, world_size: int) -> None:
        context = multiprocessing.get_context("spawn")
        port = _free_port()
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(world_size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, world_size, port), daemon=True)
            process.start()
            theirs.close()  # so that a process that dies is seen as an end of file
            self._pipes.append(ours)
            self._processes.append(process)

    def __call__(self, function: Callable[..., Any], *args: Any, timeout: float = 240.0) -> list[Any]:
        """Run ``function(*args)`` on every rank. Returns the results, rank 0 first.

        Raises:
            RuntimeError: A rank raised (its traceback is the message), died, or took longer than `timeout` seconds.
                The ranks are gone then.
        """
        call = pickle.dumps((function.__module__, function.__qualname__, args))
        try:
            for pipe in self._pipes:
                pipe.send_bytes(call)
            end = time.monotonic() + timeout
            return [self._receive(rank, end, timeout) for rank in range(len(self._pipes))]
        except BaseException:
            self.close()
            raise

    def _receive(self, rank: int, end: float, timeout: float) -> Any:
        if not self._pipes[rank].poll(max(0.0, end - time.monotonic())):
            raise RuntimeError(f"rank {rank} has not answered within {timeout} s")
        try:
            result, error = pickle.loads(self._pipes[rank].recv_bytes())
        except EOFError as stopped:
            raise RuntimeError(f"rank {rank} died") from stopped
        if error is not None:
            raise RuntimeError(f"on rank {rank}:\n{error}")
        return result

    @property
    def closed(self) -> bool:
        """Whether the ranks are gone."""
        return not self._processes

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.kill()
            process.join()
        self._processes = []


def _serve(pipe: Connection, rank: int, world_size: int, port: int) -> None:
    """One rank: set the process group up, then run what comes until the pipe is closed."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world_size),
        LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
        HF_HUB_OFFLINE="1",
    )
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    # gloo looks its own host name up otherwise, which not every machine can resolve
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo" if sys.platform != "darwin" else "lo0")
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    while True:
        try:
            module, name, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            answer = (getattr(importlib.import_module(module), name)(*args), None)
        except Exception:
            answer = (None, traceback.format_exc())
        pipe.send_bytes(pickle.dumps(answer))


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
