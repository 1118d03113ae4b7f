"""Runs `hf-icon2` in processes of its own and kills them when given files appear; for tests and as a program.

    python tests/killing.py '{"arguments": [...], "kill_at": [...], "output": "..."}'

Every attempt is a process forked from the program, which has the libraries loaded: that saves the seconds that each
start takes. It prints one JSON line: per attempt the file it was killed at, and the last attempt's exit status.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def killed_at(arguments: Sequence[str], names: Sequence[str], output: Path) -> dict[str, int]:
    """Runs a command that is killed whenever the next of these files appears, until it ends by itself, well.

    Args:
        arguments: Of `hf-icon2`.
        names: Files below `output`; those that are there already when their turn comes are passed over.
        output: Folder of the command.

    Returns:
        Exit status by the file that was waited for; negative for the kill.
    """
    order = {"arguments": list(arguments), "kill_at": list(names), "output": str(output)}
    said = subprocess.run(
        [sys.executable, __file__, json.dumps(order)], capture_output=True, text=True, timeout=300
    )
    assert said.returncode == 0, said.stderr
    result = json.loads(said.stdout.splitlines()[-1])
    assert result["last"] == 0, said.stderr
    return dict(result["killed"])


def load_libraries() -> None:
    """Imports what the commands would."""
    import torch

    torch.set_num_threads(1)  # a forked process has no worker threads

    import datasets  # noqa: F401
    import trl

    import hf_icon2.distillation.cyclealign
    import hf_icon2.distillation.minds_mirror
    import hf_icon2.judges.chat.client
    import hf_icon2.judges.ranking
    import hf_icon2.pipeline.run
    import hf_icon2.pipeline.training
    import hf_icon2.trainers.cyclealign
    import hf_icon2.trainers.dpo
    import hf_icon2.trainers.minds_mirror  # noqa: F401

    assert trl.DPOTrainer


def attempt(arguments: list[str]) -> int:
    """Process id of a command that has begun."""
    child = os.fork()
    if child == 0:
        from hf_icon2.cli import main

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
    load_libraries()
    print("\n" + json.dumps(run(json.loads(sys.argv[1]))))
