"""What `stablerep reproduce` hands to its processes, without the libraries that take seconds to load."""

import os
import time
from pathlib import Path

from stablerep_hf.errors import InputError


class FakeRunner:
    """Takes its time by the task's number; fails at -1, dies at -2, and takes a minute over -3."""

    def __init__(self, wrong=""):
        self.wrong = wrong

    def prepare(self):
        if self.wrong:
            raise InputError(self.wrong)

    def run(self, task):
        if task == -2:
            os._exit(1)
        if task == -3:
            Path(os.environ["FAKE_RUNNER_LOG"], str(os.getpid())).touch()
            time.sleep(60)
        if task == -1:
            raise InputError("task -1")
        time.sleep(0.05 * (task % 3))
        return {"key": task}
