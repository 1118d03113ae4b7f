"""Collects chains and evaluations as told, in a process that may be killed; a program, not a test.

python tests/collecting.py '{"url": ..., "cache": ..., "questions": 40, "settings": {...}, "output": ...}'
"""

import json
import sys
from pathlib import Path

from hf_icon2 import ChatClient, Question, collect_reasoning


def questions(number: int) -> list[Question]:
    return [Question(str(index), f"What is {index} plus 1?", str(index + 1)) for index in range(number)]


def rows(collection) -> dict[str, list[dict]]:
    return {"chains": collection.chains.to_list(), "evaluations": collection.evaluations.to_list()}


if __name__ == "__main__":
    order = json.loads(sys.argv[1])
    found = collect_reasoning(
        ChatClient(order["url"], cache=order["cache"]),
        questions(order["questions"]),
        **order["settings"],
        progress=False,
    )
    Path(order["output"]).write_text(json.dumps(rows(found)))
