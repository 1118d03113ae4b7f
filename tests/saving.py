"""Saves directions over others in processes of its own and kills them; a program, not a test.

    python tests/saving.py '{"first": folder, "second": folder, "target": folder, "kills": number}'

Every attempt is a process forked from this one, which saves the two sets in turn into the target until it is killed:
in odd attempts as soon as the record is replaced, in even ones after a random time. Prints one JSON line: what the
target held after each kill, "first", "second" or the sentence that refused it.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

torch.set_num_threads(1)  # a forked process has no worker threads

from hf_icon2 import DirectionVectors  # noqa: E402
from hf_icon2.directions.config import CONFIG_NAME  # noqa: E402


def held(target: Path, known: dict[str, DirectionVectors]) -> str:
    try:
        found = DirectionVectors.from_pretrained(target)
    except (ValueError, FileNotFoundError) as error:
        return f"{type(error).__name__}: {error}"
    (name,) = (name for name, one in known.items() if torch.equal(one.tensor, found.tensor))
    assert found.config == known[name].config
    return name


def attempt(target: Path, known: dict[str, DirectionVectors], turn: int, pause: float) -> None:
    record = target / CONFIG_NAME
    before = record.stat().st_ino
    child = os.fork()
    if child == 0:
        while True:
            for name in ("first", "second") if turn % 4 < 2 else ("second", "first"):
                known[name].save_pretrained(target)
    if turn % 2:
        while record.stat().st_ino == before:
            pass
    else:
        time.sleep(pause)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def run(first: str, second: str, target: str, kills: int) -> list[str]:
    known = {
        name: DirectionVectors.from_pretrained(path) for name, path in (("first", first), ("second", second))
    }
    folder, pauses = Path(target), random.Random(0)
    results = []
    for turn in range(kills):
        known["first"].save_pretrained(folder)
        attempt(folder, known, turn, pauses.uniform(0, 0.05))
        results.append(held(folder, known))
    known["second"].save_pretrained(folder)
    return [*results, held(folder, known)]


if __name__ == "__main__":
    print("\n" + json.dumps(run(**json.loads(sys.argv[1]))))
