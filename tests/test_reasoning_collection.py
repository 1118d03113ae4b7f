"""Chains of thought and evaluations collected over real HTTP: none lost, none asked twice, the report exact."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from collecting import questions, rows
from faulty_server import FaultyServer, at_random, completion
from test_reasoning_parsing import fuzzed
from wordings import chain_reply, evaluation_reply

from hf_icon2 import (
    Budget,
    ChatClient,
    Prices,
    Question,
    collect_reasoning,
    read_gsm8k,
    read_svamp,
    same_answer,
)
from hf_icon2.distillation.reasoning.figures import chain_figures, evaluation_figures

STEP = 1_000_003  # between the sampling seeds of two runs


def shown(payload):
    """What a prompt quotes, by heading; the last heading says what is asked."""
    found = {}
    for line in payload["messages"][-1]["content"].partition("\n\n")[2].split("\n"):
        if line.startswith("| "):
            found[list(found)[-1]].append(line[2:])
        else:
            found[line] = []
    return {heading: "\n".join(lines) for heading, lines in found.items()}


def adds(payload):
    """A teacher of `questions` that is always right about them, and says of every answer whether it is right."""
    asked = shown(payload)
    first = int(re.search("[0-9]+", asked["Question:"])[0])
    if "Reasoning:" in asked:
        return f"After {first} comes {first + 1}, in draw {payload['seed']}.\nThe answer is {first + 1}."
    verdict = "correct" if asked["Answer:"] == str(first + 1) else "wrong"
    return f"I count on from {first}, in draw {payload['seed']}.\n\nEvaluation result: the given answer is {verdict}."


class Replay:
    """A teacher that writes gold solutions, of which it spoils a known part.

    Of the chains of question i, number k is wrong where (i + k) % 4 is 0, and cannot be read where it is 1. Of the
    evaluations, number n of a chain is mistaken where n is 0 and (i + k) % 4 is 2, and uncertain where n is 1 and
    (i + k) % 4 is 3.
    """

    def __init__(self, questions, solutions):
        self.rows = {one.text: (index, one) for index, one in enumerate(questions)}
        self.solutions = solutions

    def __call__(self, payload):
        asked = shown(payload)
        index, question = self.rows[asked["Question:"]]
        repeat = payload["seed"] % STEP
        if "Reasoning:" in asked:
            return self.chain(index, question, repeat)
        chain, number = divmod(repeat, 1000)
        right = same_answer(question.task, asked["Answer:"], question.answer)
        turn = (index + chain) % 4
        if (number, turn) == (1, 3):
            return evaluation_reply("I cannot tell.", "uncertain")
        mistaken = (number, turn) == (0, 2)
        return evaluation_reply("I have checked each step.", "correct" if right != mistaken else "wrong")

    def chain(self, index, question, number):
        solution, label = self.solutions[index], question.answer
        turn = (index + number) % 4
        if turn == 1:
            return f"{solution}\nI am not sure about the answer."
        if turn == 0:
            label = f"{label} + 1" if question.task == "svamp" else str(int(label) + 1)
        return chain_reply(solution, label)


@pytest.fixture(scope="module")
def svamp(data_dir):
    """Questions with solutions; SVAMP has none in words, so that the equation is told."""
    found = read_svamp(json.loads(present(data_dir / "svamp" / "SVAMP.json").read_text())[:400])
    return found, [f"The problem says so.\nThat is {one.answer}." for one in found]


@pytest.fixture(scope="module")
def gsm8k(data_dir):
    lines = present(data_dir / "gsm8k" / "test.jsonl").read_text().splitlines()
    gold = [json.loads(line) for line in lines][:400]
    solutions = [re.sub("<<.*?>>", "", row["answer"].rpartition("####")[0]).strip() for row in gold]
    return read_gsm8k(gold), solutions


def present(path):
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path


@pytest.mark.parametrize("data", ["svamp", "gsm8k"])
def test_gold_solutions_with_known_errors_give_exactly_the_known_report(data, request):
    """Two chains each of N questions, N a multiple of 4: N/2 cannot be read, N/2 are wrong and N right, so that 2/3 of
    the 3N/2 kept are right. Chains of turn 2 and 3 are right, N/2 each; two evaluations each. Of the N of turn 2, N/2
    are mistaken; of the N of turn 3, N/2 uncertain; those of the N/2 wrong chains all say wrong. So N of the 2N
    evaluations of right chains and all N of wrong ones are right: accuracy 2/3, balanced (1/2 + 1) / 2 = 3/4.
    Questions of turns (0, 1), (1, 2), (2, 3), (3, 0): only the last two keep two chains, and the last's differ."""
    asked, solutions = request.getfixturevalue(data)
    number = len(asked)
    assert number % 4 == 0
    with FaultyServer(Replay(asked, solutions)) as server:
        collection = collect_reasoning(ChatClient(server.url), asked, chains=2, evaluations=2, progress=False)
    chains, evaluations = collection.report["chains"], collection.report["evaluations"]
    assert chains == {
        "asked": 2 * number, "kept": 3 * number // 2, "share": 0.75,
        "dropped": {'the reply does not say "The answer is"': number // 2},
        "questions": number, "repeated": number // 4, "agreement": (1 + 0.5) / 2,
        "known": 3 * number // 2, "accuracy": pytest.approx(2 / 3),
    }  # fmt: skip
    assert evaluations == {
        "asked": 3 * number, "kept": 3 * number, "share": 1.0, "dropped": {},
        "verdicts": {"correct": number, "wrong": 3 * number // 2, "uncertain": number // 2},
        "agreement": pytest.approx((0.5 + 0.5 + 1) / 3), "known": 3 * number,
        "accuracy": pytest.approx(2 / 3), "balanced_accuracy": 0.75,
    }  # fmt: skip
    by_id = {one.id: index for index, one in enumerate(asked)}
    for row in collection.chains:
        assert (
            row["rationale"] == solutions[by_id[row["id"]]]
        )  # word for word, commas and line breaks included
        assert (
            row["prompt"] == asked[by_id[row["id"]]].text and row["answer"] == asked[by_id[row["id"]]].answer
        )


def test_rows_carry_all_columns_and_are_joined_by_key():
    with FaultyServer(adds) as server:
        found = collect_reasoning(
            ChatClient(server.url), questions(3), chains=2, evaluations=2, seed=5, progress=False
        )
    assert found.chains[3] == {
        "id": "1", "chain": 1, "prompt": "What is 1 plus 1?", "answer": "2", "label": "2",
        "rationale": f"After 1 comes 2, in draw {5 * STEP + 1}.",
    }  # fmt: skip
    assert found.evaluations[7] == {
        "id": "1", "chain": 1, "number": 1, "prompt": "What is 1 plus 1?", "label": "2", "verdict": "correct",
        "rationale": f"After 1 comes 2, in draw {5 * STEP + 1}.",
        "evaluation": f"I count on from 1, in draw {5 * STEP + 1001}.",
    }  # fmt: skip
    keys = {(row["id"], row["chain"]) for row in found.chains}
    assert len(keys) == 6 and Counter(
        (row["id"], row["chain"]) for row in found.evaluations
    ) == dict.fromkeys(keys, 2)


def test_usage_is_what_the_call_has_spent():
    with FaultyServer(
        lambda payload: completion(adds(payload), prompt_tokens=10, completion_tokens=4)
    ) as server:
        client = ChatClient(server.url, prices=Prices(1.0, 2.0))
        collect_reasoning(client, questions(2), chains=1, evaluations=1, progress=False)
        report = collect_reasoning(client, questions(3), chains=1, evaluations=1, progress=False).report
    assert report["usage"] == {
        "requests": 2, "retries": 0, "cached": 4, "prompt_tokens": 20, "completion_tokens": 8,
        "cost": pytest.approx(2 * (10 * 1.0 + 4 * 2.0) / 1e6),
    }  # fmt: skip
    assert json.loads(json.dumps(report)) == report


def test_progress_and_a_system_prompt_are_shown_when_asked_for(capsys):
    with FaultyServer(adds) as server:
        collect_reasoning(ChatClient(server.url), questions(1), system="Be brief.", chains=1, evaluations=1)
    assert server.seen[0].payload["messages"][0] == {"role": "system", "content": "Be brief."}
    bars = capsys.readouterr().err
    assert "chains of thought" in bars and "evaluations" in bars


# What goes wrong.


def test_fuzzed_replies_leave_nothing_blank_in_the_rows(caplog):
    """As chains of 5 forms of task and as evaluations; every reply is kept or counted by its reason."""
    tasks = [
        {"task": "text"}, {"task": "svamp"}, {"task": "gsm8k"}, {"task": "anli"},
        {"task": "cqa", "choices": ("bank", "tree")},
    ]  # fmt: skip
    asked = [Question(str(index), f"question {index}", **tasks[index % 5]) for index in range(100)]

    def answer(payload):
        return fuzzed(random.Random(json.dumps(payload)))

    with FaultyServer(answer) as server:
        found = collect_reasoning(
            ChatClient(server.url), asked, chains=6, evaluations=8, max_tokens=64, progress=False
        )
    chains, evaluations = found.report["chains"], found.report["evaluations"]
    assert chains["asked"] + evaluations["asked"] == len(server.seen) >= 600
    for figures, data in ((chains, found.chains), (evaluations, found.evaluations)):
        assert figures["kept"] == len(data) > 5
        assert figures["asked"] == figures["kept"] + sum(figures["dropped"].values())
        assert len(figures["dropped"]) < 10  # reasons, not replies
        for row in data:
            assert all(any(map(str.isalnum, text)) for text in row.values() if isinstance(text, str))
    assert "chains of thought are dropped: " in caplog.text


def test_a_reply_that_was_cut_is_dropped_even_if_it_could_be_read():
    """Its answer may have been 42, cut to 4."""

    def answer(payload):
        cut = payload["seed"] % STEP == 1
        return completion("It is so. The answer is 4", finish_reason="length" if cut else "stop")

    with FaultyServer(answer) as server:
        found = collect_reasoning(
            ChatClient(server.url), questions(5), chains=2, evaluations=0, progress=False
        )
    assert found.report["chains"]["dropped"] == {"the reply was cut at max_tokens=512, raise it": 5}
    assert found.chains["chain"] == [0] * 5


def test_without_evaluations_there_are_none():
    with FaultyServer(adds) as server:
        found = collect_reasoning(
            ChatClient(server.url), questions(2), chains=1, evaluations=0, temperature=0, progress=False
        )
    assert len(found.evaluations) == 0 and found.evaluations.column_names[-1] == "verdict"
    assert found.report["evaluations"]["share"] is None and found.report["evaluations"]["agreement"] is None
    assert len(server.seen) == 2


def test_faults_of_the_endpoint_change_nothing():
    kinds = ["429", "500", "cut", "malformed", "empty"]
    collected = []
    for plan in (None, at_random(dict.fromkeys(kinds, 0.05))):
        with FaultyServer(adds, plan=plan) as server:
            client = ChatClient(server.url, backoff=0.01)
            found = collect_reasoning(client, questions(20), chains=2, evaluations=2, progress=False)
            collected.append(rows(found))
    assert collected[0] == collected[1]
    assert found.report["usage"]["retries"] > 10


def test_a_request_that_cannot_pass_is_dropped_and_counted():
    def plan(payload, _attempt):
        return "400" if "What is 3 plus" in payload["messages"][-1]["content"] else None

    with FaultyServer(adds, plan=plan) as server:
        found = collect_reasoning(
            ChatClient(server.url), questions(6), chains=2, evaluations=1, progress=False
        )
    assert found.report["chains"]["dropped"] == {"the endpoint answers with status 400": 2}
    assert sorted(set(found.chains["id"])) == ["0", "1", "2", "4", "5"]


def test_a_teacher_that_never_answers_in_the_form_is_refused_with_its_reasons():
    with FaultyServer(lambda _payload: "I do not know.") as server, pytest.raises(ValueError) as raised:
        collect_reasoning(ChatClient(server.url), questions(2), chains=2, progress=False)
    assert str(raised.value) == (
        'none of 4 chains of thought can be used: the reply does not say "The answer is" (4); look at a reply of the '
        "teacher, or choose another"
    )
    assert len(server.seen) == 4


@pytest.mark.parametrize(
    ("asked", "settings", "kind", "reason"),
    [
        ([], {}, ValueError, "there are no questions to ask"),
        (["What?"], {}, TypeError, "questions are of the class Question, got str; read rows with read_svamp"),
        (
            [Question("a", "x"), Question("a", "y")],
            {},
            ValueError,
            "the id 'a' belongs to more than one question",
        ),
        (questions(1), {"chains": 0}, ValueError, "chains=0 is not allowed; give 1 to 1000"),
        (questions(1), {"evaluations": 1001}, ValueError, "evaluations=1001 is not allowed; give 0 to 1000"),
        (questions(1), {"temperature": 0.0}, ValueError, "several replies to one prompt must differ"),
        (questions(1), {"temperature": float("nan")}, ValueError, "temperature=nan is not allowed"),
        (questions(1), {"temperature": -1.0, "chains": 1, "evaluations": 1}, ValueError, "temperature=-1.0"),
        (questions(1), {"max_tokens": 0}, ValueError, "max_tokens=0 is not allowed"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_any_request(asked, settings, kind, reason):
    with FaultyServer(adds) as server, pytest.raises(kind, match=reason):
        collect_reasoning(ChatClient(server.url), asked, progress=False, **settings)
    assert not server.seen


# Going on.


def test_a_spent_budget_ends_with_a_sentence_and_a_larger_one_goes_on(tmp_path):
    cache = tmp_path / "replies"
    with FaultyServer(adds) as server:
        for most, said in (
            (
                7,
                "the teacher stopped: the budget of 7 requests is spent; raise the budget to go on; 7 of 10 chains of",
            ),
            (25, "15 of 20 evaluations were answered and stay in the chat client's cache"),
        ):
            client = ChatClient(server.url, cache=cache, budget=Budget(requests=most))
            with pytest.raises(OSError) as raised:
                collect_reasoning(client, questions(5), chains=2, evaluations=2, progress=False)
            assert said in str(raised.value) and len(server.seen) == most
        client = ChatClient(server.url, cache=cache, budget=Budget(requests=30))
        found = collect_reasoning(client, questions(5), chains=2, evaluations=2, progress=False)
        whole = collect_reasoning(
            ChatClient(server.url), questions(5), chains=2, evaluations=2, progress=False
        )
    assert rows(found) == rows(whole) and len(server.seen) == 60
    assert found.report["usage"] | {"requests": 5, "cached": 25} == found.report["usage"]


def test_more_chains_and_evaluations_are_asked_for_without_repeating_the_first(tmp_path):
    sizes = [(1, 1), (3, 1), (3, 2)]
    with FaultyServer(adds) as server:
        client = ChatClient(server.url, cache=tmp_path / "replies")
        sent = []
        for chains, evaluations in sizes:
            collect_reasoning(client, questions(4), chains=chains, evaluations=evaluations, progress=False)
            sent.append(len(server.seen))
    assert sent == [4 * chains * (1 + evaluations) for chains, evaluations in sizes]
    assert max(Counter(json.dumps(seen.payload) for seen in server.seen).values()) == 1


def test_another_seed_is_another_draw():
    with FaultyServer(adds) as server:
        client = ChatClient(server.url)
        for seed in (0, 0, 1, 2**40):
            collect_reasoning(client, iter(questions(1)), chains=2, evaluations=2, seed=seed, progress=False)
    assert len(server.seen) == 3 * 6
    seeds = [seen.payload["seed"] for seen in server.seen]
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert (
        len(set(seeds)) == 3 * 4
    )  # chains have 0 and 1, evaluations 0, 1, 1000 and 1001, from where the seed begins


def test_without_a_seed_every_chain_and_evaluation_is_asked_all_the_same():
    drawn = iter(range(100))

    def answer(payload):
        return adds(payload | {"seed": next(drawn)})

    with FaultyServer(answer) as server:
        found = collect_reasoning(
            ChatClient(server.url), questions(2), chains=2, evaluations=2, seed=None, progress=False
        )
    assert len(server.seen) == 2 * 2 * 3 and all(seen.payload.get("seed") is None for seen in server.seen)
    assert len(set(found.chains["rationale"])) == 4


def test_a_collection_killed_with_no_chance_to_say_goodbye_goes_on_where_it_was(tmp_path):
    """kill -9 while chains are asked, again while evaluations are; what was answered is not asked again."""
    settings = {"chains": 3, "evaluations": 2}
    program = Path(__file__).parent / "collecting.py"
    environment = os.environ | {"PYTHONPATH": str(program.parents[1]), "HF_HUB_OFFLINE": "0"}
    total = 20 * 3 * (1 + 2)
    with FaultyServer(adds, latency=0.02) as server:
        order = {
            "url": server.url, "cache": str(tmp_path / "replies"), "questions": 20, "settings": settings,
            "output": str(tmp_path / "rows.json"),
        }  # fmt: skip
        command = [sys.executable, str(program), json.dumps(order)]
        for kill_at in (25, 100):
            process = subprocess.Popen(command, env=environment)
            while len(server.seen) < kill_at:
                assert process.poll() is None
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        assert not (tmp_path / "rows.json").exists()
        subprocess.run(command, env=environment, check=True)
    asked = Counter(json.dumps(seen.payload, sort_keys=True) for seen in server.seen)
    assert len(asked) == total
    assert len(server.seen) <= total + 2 * 8  # again only what was in flight, 8 at most
    with FaultyServer(adds) as server:
        whole = collect_reasoning(ChatClient(server.url), questions(20), **settings, progress=False)
    assert json.loads((tmp_path / "rows.json").read_text()) == rows(whole)


# Figures by hand.


def test_chain_figures_by_hand():
    """Question a: 7, 7.0 and 8, of which two agree; b: one chain; c: unknown answer, two that differ. Agreement
    (2/3 + 1/2) / 2 = 7/12; right are 2 of a's 3 and b's 1: 3 of 4."""
    asked = {
        key: Question(key, "x", answer, "gsm8k") for key, answer in (("a", "7"), ("b", "1"), ("c", None))
    }
    labels = [("a", "7"), ("a", "7.0"), ("a", "8"), ("b", "1"), ("c", "2"), ("c", "3"), ("a", "7")]
    found = chain_figures(
        asked, [{"id": key, "rationale": "so", "label": label} for key, label in labels[:6]]
    )
    assert found == {
        "questions": 3, "repeated": 0, "agreement": pytest.approx(7 / 12), "known": 4, "accuracy": 0.75,
    }  # fmt: skip
    again = chain_figures(asked, [{"id": key, "rationale": "so", "label": label} for key, label in labels])
    assert again["repeated"] == 1
    assert chain_figures(asked, []) == {
        "questions": 0, "repeated": 0, "agreement": None, "known": 0, "accuracy": None,
    }  # fmt: skip


def test_evaluation_figures_by_hand():
    """Chain 0 is right: correct, correct, wrong, uncertain: 2 of 4. Chain 1 is wrong: wrong, correct, wrong: 2 of 3.
    Accuracy 4/7, balanced (1/2 + 2/3) / 2 = 7/12; agreement (2/4 + 2/3) / 2 = 7/12 as well."""
    asked = {"a": Question("a", "x", "7", "gsm8k"), "b": Question("b", "x")}
    verdicts = {("a", 0, "7"): "ccwu", ("a", 1, "8"): "wcw", ("b", 0, "8"): "c"}
    words = {"c": "correct", "w": "wrong", "u": "uncertain"}
    given = [
        {"id": key, "chain": chain, "label": label, "verdict": words[one]}
        for (key, chain, label), all_of_it in verdicts.items()
        for one in all_of_it
    ]
    assert evaluation_figures(asked, given) == {
        "verdicts": {"correct": 4, "wrong": 3, "uncertain": 1}, "agreement": pytest.approx(7 / 12), "known": 7,
        "accuracy": pytest.approx(4 / 7), "balanced_accuracy": pytest.approx(7 / 12),
    }  # fmt: skip
    assert evaluation_figures(asked, given[:4])["balanced_accuracy"] is None  # no wrong chain to judge
