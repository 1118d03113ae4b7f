"""Stored replies of ChatGPT and GPT-4 to LLMBar's natural pairs, served again over HTTP and judged by our code.

The data are those of Zeng et al. 2024 (github.com/princeton-nlp/LLMBar, MIT); see SOURCE.md beside them.
"""

import gzip
import json
import re

import pytest
from faulty_server import FaultyServer

from hf_icon2 import ChatClient, PairwiseJudge
from hf_icon2.judges.replies import stated_letter

RUNS = {
    # mean accuracy over both orders, as published; abstentions; right and wrong where both orders agree
    "ChatGPT_Swap": (0.730, 38, 54, 8),
    "ChatGPT_Swap_CoT": (0.745, 37, 56, 7),
    "GPT-4_Swap": (0.925, 7, 89, 4),
    "GPT-4_Swap_CoT": (0.935, 7, 90, 3),
}
ORDERS = {"swap = False": "12", "swap = True": "21"}
SHOWN = re.compile(
    r"Question:\n(.*)\n\nAnswer A:\n(.*)\n\nAnswer B:\n(.*)\n\nReply with the letter", re.DOTALL
)


@pytest.fixture(scope="module")
def stored(data_dir):
    folder = data_dir / "llmbar" / "judge_outputs"
    if not folder.is_dir():
        pytest.skip(f"no LLMBar judge outputs in {folder}")
    return {
        name: json.loads(gzip.decompress((folder / f"natural_{name}.json.gz").read_bytes())) for name in RUNS
    }


def winner(reply, order):
    """The output that our code takes a reply for, as the authors number them; `order` says which was shown where."""
    letter = stated_letter(reply)
    return None if letter is None else order["AB".index(letter)]


@pytest.mark.parametrize("run", RUNS)
def test_stored_replies_give_the_published_accuracy_over_http(run, stored):
    rows = stored[run]
    replies = {
        (row["input"], row[f"output_{order[0]}"], row[f"output_{order[1]}"]): row["results"][0][swap][
            "completion"
        ]
        for row in rows
        for swap, order in ORDERS.items()
    }
    assert len(replies) == 200

    def answer(payload):
        assert payload["temperature"] == 0
        return replies[SHOWN.search(payload["messages"][-1]["content"]).groups()][0]

    with FaultyServer(answer) as server:
        judge = PairwiseJudge.from_chat(ChatClient(server.url))
        found = judge.calibrate(rows)
        assert len(server.seen) == 200
    accuracy, abstained, right, wrong = RUNS[run]
    assert found.accuracy.value == pytest.approx(accuracy)
    assert (found.read, found.abstained, found.flips) == (100, abstained, abstained)
    assert (found.right, found.wrong) == (right, wrong)
    assert found.accuracy.low < accuracy < found.accuracy.high
    assert found.agreed_accuracy.value == pytest.approx(right / (right + wrong))


def test_every_stored_reply_is_read_as_its_authors_read_it(stored):
    read = [
        (winner(row["results"][0][swap]["completion"][0], order), row["results"][0][swap]["winner"])
        for rows in stored.values()
        for row in rows
        for swap, order in ORDERS.items()
    ]
    assert len(read) == 800
    assert [ours for ours, _ in read] == [theirs for _, theirs in read]


def test_second_rounds_are_read_alike_but_where_a_reply_quotes_the_other_verdict_first(stored):
    """The authors take the first of two searches that finds anything, "(a) is better" before "(b) is better".

    All eight replies that differ quote an assistant who argues for (a), and end by finding (b) better.
    """
    differ, number = [], 0
    for name, rows in stored.items():
        for row in rows:
            for result in row["results"][1:]:
                for swap, order in ORDERS.items():
                    number += 1
                    reply = result[swap]["completion"][0]
                    if winner(reply, order) != result[swap]["winner"]:
                        differ.append((name, reply))
    assert number == 178
    assert [name for name, _ in differ] == ["ChatGPT_Swap_CoT"] * 8
    for _, reply in differ:
        assert "Assistant (a) argues that Output (a) is better" in reply
        assert re.findall(r"Output \((.)\) is better", reply)[-1] == "b"
