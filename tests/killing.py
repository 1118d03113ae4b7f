"""Runs `hf-icon2` in processes of its own and kills them when given files appear; a program, not a test.

    python tests/killing.py '{"arguments": [...], "kill_at": [...], "output": "..."}'

Every attempt is a process forked from this one, which has the libraries loaded: that saves the seconds that each
start takes. Prints one JSON line: per attempt the file it was killed at, and the last attempt's exit status.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import torch

torch.set_num_threads(1)  # a forked process has no worker threads

import datasets  # noqa: E402, F401
import trl  # noqa: E402

import hf_icon2.distillation.cyclealign  # noqa: E402
import hf_icon2.distillation.minds_mirror  # noqa: E402
import hf_icon2.judges.chat.client  # noqa: E402
import hf_icon2.judges.ranking  # noqa: E402
import hf_icon2.pipeline.run  # noqa: E402
import hf_icon2.pipeline.training  # noqa: E402
import hf_icon2.trainers.cyclealign  # noqa: E402
import hf_icon2.trainers.dpo  # noqa: E402
import hf_icon2.trainers.minds_mirror  # noqa: E402, F401
from hf_icon2.cli import main  # noqa: E402

assert trl.DPOTrainer


def attempt(arguments: list[str]) -> int:
    """Process id of a command that has begun."""
    child = os.fork()
    if child == 0:
        os._exit(main(arguments))
    return child


def ends(child: int) -> int | None:
    """Exit status of a process, negative for a signal; None while it runs."""
    finished, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if finished else None


def kill_when(child: int, target: Path) -> int:
    """Kills a process as soon as a file appears; its exit status."""
    while not target.exists():
        status = ends(child)
        if status is not None:
            return status
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(order: dict[str, object]) -> dict[str, object]:
    """Kills an attempt at every file that is not there yet, then lets one end."""
    killed = []
    for name in order["kill_at"]:
        target = Path(order["output"]) / name
        if not target.exists():
            status = kill_when(attempt(order["arguments"]), target)
            killed.append([name, status])
    last = os.waitstatus_to_exitcode(os.waitpid(attempt(order["arguments"]), 0)[1])
    return {"killed": killed, "last": last}


if __name__ == "__main__":
    print("\n" + json.dumps(run(json.loads(sys.argv[1]))))
