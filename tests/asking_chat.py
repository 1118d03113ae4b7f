"""Asks a chat endpoint in processes of its own, to be killed or run side by side; a program, not a test.

    python tests/asking_chat.py '{"url": "...", "cache": "...", "prompts": 1000, "output": "...", "client": {}}'

For each line on its input it forks a process, which saves the seconds of a start, and that asks all prompts and
writes what came back to `output`. It prints that process's id at once, and its exit status at its end.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from hf_icon2.judges.chat.budget import Budget
from hf_icon2.judges.chat.client import ChatClient
from hf_icon2.judges.chat.records import ChatRequest


def requests(number: int) -> list[ChatRequest]:
    return [
        ChatRequest(({"role": "user", "content": f"question {index}"},), max_tokens=8)
        for index in range(number)
    ]


def ask(order: dict) -> None:
    settings = dict(order["client"])
    if "budget" in settings:
        settings["budget"] = Budget(**settings["budget"])
    client = ChatClient(order["url"], cache=order["cache"], **settings)
    outcomes = client.complete(requests(order["prompts"]))
    Path(order["output"]).write_text(json.dumps([asdict(outcome) for outcome in outcomes]))


def main(order: dict) -> None:
    import huggingface_hub.inference._providers  # noqa: F401, I001  (what each process would load anew)

    for _ in sys.stdin:
        child = os.fork()
        if child == 0:
            try:
                ask(order)
            except BaseException as error:
                print(repr(error), file=sys.stderr, flush=True)
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
