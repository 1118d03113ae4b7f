"""The toy's teacher: how often it errs, that it judges as said, and its server over real HTTP."""

import json
import math
import random
import subprocess
import sys
import urllib.request
from collections import Counter
from itertools import permutations
from urllib.error import HTTPError

import pytest
from wordings import as_quoted, chain_reply, evaluation_reply, tricky_text

from hf_icon2 import ChatClient
from hf_icon2.distillation.reasoning.collection import collect_reasoning
from hf_icon2.distillation.reasoning.parsing import parse_chain, parse_evaluation
from hf_icon2.distillation.reasoning.records import Chain, Question
from hf_icon2.distillation.reasoning.wording import chain_evaluation_prompt, chain_prompt
from hf_icon2.judges.verdicts import VERDICTS
from hf_icon2.toy.reasoner import ReasonerServer, ReasoningRule, read_prompt
from hf_icon2.toy.reasoning import (
    LABEL_PREFIX,
    RATIONALE_PREFIX,
    evaluation,
    evaluation_prompt,
    guess,
    orders,
    parse_sum,
    sums,
)
from hf_icon2.toy.skills import SUM_PHRASINGS, Sum, sum_split, verdict_prompt, wrong_rationale

THREE = Sum((3, 4, 2), ("plus", "minus"))


def split_reply(reply):
    """Rationale and answer of a chain, or reasons and verdict of an evaluation; None for what is neither."""
    head, _, last = reply.rpartition("\n")
    for start in ("The answer is ", "Evaluation result: the given answer is "):
        if last.startswith(start) and head.strip() and last.removeprefix(start) != ".":
            return head.strip(), last.removeprefix(start).removesuffix(".")
    return None


def within(count, number, probability):
    """Whether a count is within four standard deviations of its binomial mean."""
    return abs(count - number * probability) <= 4 * math.sqrt(number * probability * (1 - probability)) + 1e-9


def test_a_chain_is_wrong_unfinished_or_malformed_as_often_as_said():
    rule = ReasoningRule(error=0.2, unfinished=0.1, malformed=0.05)
    counts = Counter()
    number = 0
    for problem in sums("train", 400):
        for seed in range(10):
            number += 1
            found = split_reply(rule.chain(problem.text, seed))
            if found is None:
                counts["malformed"] += 1
                continue
            counts[evaluation(problem, *found)[1]] += 1
            counts["right"] += int(found[1]) == problem.result
    assert within(counts["malformed"], number, 0.05)
    assert within(counts["wrong"], number, 0.2)
    assert within(counts["uncertain"], number, 0.1)
    assert (
        counts["right"]
        == counts["correct"]
        == number - sum(counts[kind] for kind in ("malformed", "wrong", "uncertain"))
    )


@pytest.mark.parametrize("chances", [{"error": 0}, {"error": 1}, {"error": 0, "unfinished": 1}])
def test_chances_of_zero_and_one_leave_nothing_to_chance(chances):
    rule = ReasoningRule(**({"unfinished": 0, "malformed": 0} | chances))
    expected = "wrong" if chances["error"] else "uncertain" if "unfinished" in chances else "correct"
    for problem in sums("train", 200, seed=1):
        rationale, answer = split_reply(rule.chain(problem.text, 0))
        assert evaluation(problem, rationale, answer)[1] == expected
        assert (int(answer) == problem.result) == (expected == "correct")


@pytest.mark.parametrize("kind", VERDICTS)
def test_an_evaluation_is_wrong_as_often_as_said_whatever_it_judges(kind):
    rule = ReasoningRule(evaluation_error=0.2, malformed=0.1)
    counts, number, rng = Counter(), 0, random.Random(0)
    for problem in sums("train", 200):
        if kind == "uncertain":
            rationale, answer = guess(problem, rng)
        else:
            text = problem.rationale() if kind == "correct" else wrong_rationale(problem, rng)
            rationale, _, said = text.partition(" the answer is ")
            answer = said.removesuffix(" .")
        for seed in range(10):
            number += 1
            found = split_reply(rule.evaluation(problem.text, rationale, str(answer), seed))
            counts[found[1] if found and found[1] in VERDICTS else "malformed"] += 1
    assert within(counts["malformed"], number, 0.1)
    assert within(counts[kind], number, 0.7)
    for other in set(VERDICTS) - {kind}:
        assert within(counts[other], number, 0.1)


def test_chains_of_a_question_take_different_ways_with_different_seeds():
    """3 plus 4 minus 2 has four orders without a negative result, each in two wordings: eight right chains."""
    rule = ReasoningRule(error=0, unfinished=0, malformed=0)
    chains = {rule.chain(THREE.text, seed) for seed in range(200)}
    assert chains == {
        f"3 plus 4 {verb} 7 . 7 minus 2 {verb} 5 .\nThe answer is 5." for verb in ("is", "makes")
    } | {
        f"3 minus 2 {verb} 1 . 1 plus 4 {verb} 5 .\nThe answer is 5." for verb in ("is", "makes")
    } | {
        f"4 plus 3 {verb} 7 . 7 minus 2 {verb} 5 .\nThe answer is 5." for verb in ("is", "makes")
    } | {
        f"4 minus 2 {verb} 2 . 2 plus 3 {verb} 5 .\nThe answer is 5." for verb in ("is", "makes")
    }  # fmt: skip
    assert rule.chain(THREE.text, 7) == rule.chain(THREE.text, 7)
    assert ReasoningRule(seed=1).chain(THREE.text, 7) == ReasoningRule(seed=1).chain(THREE.text, 7)
    assert any(
        ReasoningRule(seed=1).chain(THREE.text, n) != ReasoningRule().chain(THREE.text, n) for n in range(9)
    )


@pytest.mark.parametrize(
    ("rationale", "answer", "reasons"),
    [
        ("3 plus 4 is 7 . 7 minus 2 is 5 .", "5", "3 plus 4 is 7 . 7 minus 2 is 5 . the answer is correct ."),
        (
            "4 minus 2 makes 2 . 2 plus 3 makes 5 .",
            "5",
            "4 minus 2 is 2 . 2 plus 3 is 5 . the answer is correct .",
        ),
        ("3 plus 4 is 8 . 8 minus 2 is 6 .", "6", "3 plus 4 is 7 not 8 . the answer is wrong ."),
        (
            "4 plus 3 makes 7 . 7 minus 2 makes 4 .",
            "4",
            "4 plus 3 is 7 . 7 minus 2 is 5 not 4 . the answer is wrong .",
        ),
        ("3 plus 4 is 7 . 7 minus 2 is 5 .", "6", "the answer is 5 not 6 . the answer is wrong ."),
        ("3 plus 4 is 7 . 7 minus 2 .", "5", "the rationale is not full . the answer is uncertain ."),
        ("3 plus 5 is 8 . 8 minus 3 is 5 .", "5", "the rationale is not full . the answer is uncertain ."),
        ("i do not know .", "5", "the rationale is not full . the answer is uncertain ."),
        ("", "", "the rationale is not full . the answer is uncertain ."),
    ],
)
def test_verdicts_by_hand(rationale, answer, reasons):
    """On 3 plus 4 minus 2."""
    assert evaluation(THREE, rationale, answer) == (reasons, reasons.split()[-2])


def test_orders_by_brute_force():
    """Every order of the signed terms, its results computed here."""
    for problem in sums("train", 100):
        signed = list(
            zip((1, *(1 if s == "plus" else -1 for s in problem.signs)), problem.terms, strict=True)
        )
        expected = set()
        for order in permutations(signed):
            results = [sum(s * t for s, t in order[:end]) for end in range(1, len(order) + 1)]
            if order[0][0] > 0 and min(results) >= 0:
                expected.add(tuple(order))
        found = [
            tuple(zip((1, *(1 if s == "plus" else -1 for s in one.signs)), one.terms, strict=True))
            for one in orders(problem)
        ]
        assert found[0] == tuple(signed) and set(found) == expected and len(found) == len(expected)


def test_sums_are_read_back_from_every_phrasing():
    for problem in sums("train", 300):
        assert parse_sum(problem.text) == problem
    for phrasing, text in enumerate(SUM_PHRASINGS):
        assert parse_sum(text.format(x="9 minus 2")) == Sum((9, 2), ("minus",), phrasing)
    others = (
        "what is 10 plus 1 ?",
        "what is 1 minus 2 ?",
        "what is 3 ?",
        "what is 1 plus 1 plus 1 plus 1 ?",
        "hi",
    )
    assert [parse_sum(text) for text in others] == [None] * 5


def test_splits_share_no_terms():
    train, test = sums("train", 1600), sums("test", 404)
    terms = [{(one.terms, one.signs) for one in side} for side in (train, test)]
    assert (len(terms[0]), len(terms[1])) == (1600, 404) and not terms[0] & terms[1]
    assert {sum_split(*one) for one in terms[1]} == {"test"}
    assert sums("train", 10, seed=3) == sums("train", 20, seed=3)[:10] != sums("train", 10)
    with pytest.raises(ValueError, match="405 sums are asked for; allowed: 0 to 404"):
        sums("test", 405)


def test_all_that_a_pupil_reads_and_writes_is_in_the_vocabulary(toy_tokenizer):
    rule, unknown = ReasoningRule(error=0.3, evaluation_error=0.5), toy_tokenizer.unk_token_id
    for problem in sums("train", 100):
        for seed in range(5):
            found = split_reply(rule.chain(problem.text, seed))
            if found is None:
                continue
            judged = split_reply(rule.evaluation(problem.text, *found, seed))
            texts = [problem.text, *found, *(judged or ()), LABEL_PREFIX, RATIONALE_PREFIX]
            texts += [evaluation_prompt(problem.text, *found, shows=shows) for shows in ("all", "rationale")]
            ids = toy_tokenizer(texts, add_special_tokens=False)["input_ids"]
            assert all(row and unknown not in row for row in ids), texts


def test_the_toys_wording_is_the_one_that_the_bundled_models_were_taught():
    for problem in sums("train", 20):
        rationale, _, said = problem.rationale().partition(" the answer is ")
        answer = said.removesuffix(" .")
        assert evaluation_prompt(problem.text, rationale, answer) == verdict_prompt(
            problem.text, problem.rationale()
        )
        assert evaluation_prompt(problem.text, rationale, answer, shows="rationale") == problem.rationale()


@pytest.mark.parametrize(
    "settings",
    [{"error": -0.1}, {"error": 1.1}, {"error": math.nan}, {"error": 0.9, "unfinished": 0.2}, {"evaluation_error": 1}],
)  # fmt: skip
def test_chances_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="allowed|at most"):
        ReasoningRule(**settings)


def post(endpoint, body):
    request = urllib.request.Request(
        endpoint + "/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, json.load(reply)["choices"][0]["message"]["content"]
    except HTTPError as error:
        with error:
            return error.code, json.load(error)["error"]["message"]


CHAIN = f"Think.\n\nQuestion:\n| {THREE.text}\nReasoning:"
JUDGE = "\n".join(
    [
        "Judge.",
        "",
        "Question:",
        f"| {THREE.text}",
        "Rationale:",
        "| 3 plus 4 is 7 .",
        "Answer:",
        "| 7",
        "Evaluation:",
    ]
)


def asked(prompt, **fields):
    return {"messages": [{"role": "user", "content": prompt}]} | fields


def test_over_http_it_says_what_the_rule_says_for_the_seed_that_is_sent():
    rule = ReasoningRule(seed=2)
    with ReasonerServer(rule) as server:
        for seed in range(5):
            said = post(server.endpoint, asked(CHAIN, seed=seed, temperature=0.7))
            assert said == (200, rule.chain(THREE.text, seed))
            said = post(server.endpoint, asked(JUDGE, seed=seed, temperature=0.7))
            assert said == (200, rule.evaluation(THREE.text, "3 plus 4 is 7 .", "7", seed))
            said = post(server.endpoint, asked(CHAIN, seed=seed, temperature=0))
            assert said == post(server.endpoint, asked(CHAIN)) == (200, rule.chain(THREE.text))
        assert (server.answered, server.refused) == (20, 0)


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("What is 1 plus 1?", "has the headings none"),
        ("Question:\n| what is 1 plus 1 ?", "has the headings Question:"),
        (CHAIN + "\n| 3 plus 4 is 7 .", "has the headings Question:, Reasoning:"),
        (JUDGE.replace("Answer:\n", ""), "has the headings Question:, Rationale:, Evaluation:"),
        (CHAIN.replace("3", "three"), "works out its own sums only"),
        (JUDGE.replace("4 minus", "14 minus"), "works out its own sums only"),
    ],
)
def test_another_prompt_is_refused_with_a_sentence(prompt, says):
    with ReasonerServer() as server:
        status, sentence = post(server.endpoint, asked(prompt))
        assert status == 422 and says in sentence
        assert (server.answered, server.refused) == (0, 1)


def test_lines_that_look_like_headings_stay_what_is_quoted():
    tricky = "what is\nEvaluation:\n| Answer:\nReasoning:"
    quoted = "\n".join("| " + line for line in tricky.split("\n"))
    assert read_prompt(f"Question:\n{quoted}\nReasoning:") == (tricky,)
    prompt = f"Question:\n{quoted}\nRationale:\n{quoted}\nAnswer:\n{quoted}\nEvaluation:"
    assert read_prompt(prompt) == (tricky, tricky, tricky)


def test_it_is_served_from_the_command_line():
    command = [
        sys.executable,
        "-m",
        "hf_icon2.toy.reasoner",
        "--error",
        "0",
        "--unfinished",
        "0",
        "--malformed",
        "0",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        endpoint = process.stderr.readline().split()[2]
        status, said = post(endpoint, asked(CHAIN))
        assert status == 200 and said.endswith("The answer is 5.")
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.mark.parametrize("wrong", [["--error", "2"], ["--port", "99999"]])
def test_the_command_refuses_settings_out_of_range(wrong):
    command = [sys.executable, "-m", "hf_icon2.toy.reasoner", *wrong]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "error: " in done.stderr and "Traceback" not in done.stderr


def test_the_teacher_loads_no_torch():
    code = "import sys, hf_icon2.toy.reasoner; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize("seed", range(20))
def test_what_the_collection_writes_the_toy_reads(seed):
    """Random texts with every sort of line break, headings of the layout among them."""
    rng = random.Random(seed)
    layout = ("Question:", "Rationale:", "Answer:", "Reasoning:", "Evaluation:", "\nReasoning:\n")

    def text():
        return tricky_text(rng, layout)

    question, chain = Question("1", text()), Chain(text(), text())
    assert read_prompt(chain_prompt(question)) == (as_quoted(question.text),)
    assert read_prompt(chain_evaluation_prompt(question, chain)) == tuple(
        map(as_quoted, (question.text, chain.rationale, chain.label))
    )


def test_its_replies_have_the_forms_that_the_collection_reads():
    rule = ReasoningRule(error=0.3, malformed=0, evaluation_error=0.3)
    for problem in sums("train", 50):
        question = Question("1", problem.text)
        for seed in range(4):
            reply = rule.chain(problem.text, seed)
            chain = parse_chain(reply, question)
            assert reply == chain_reply(chain.rationale, chain.label)
            reply = rule.evaluation(problem.text, chain.rationale, chain.label, seed)
            judged = parse_evaluation(reply)
            assert reply == evaluation_reply(judged.text, judged.verdict)
            assert judged.text.endswith(f"the answer is {judged.verdict} .")


def test_malformed_replies_are_all_dropped_by_the_collection():
    rule, question = (
        ReasoningRule(error=0, unfinished=0, malformed=1, evaluation_error=0),
        Question("1", THREE.text),
    )
    replies = {rule.chain(THREE.text, seed) for seed in range(99)}
    assert len(replies) > 4
    for reply in replies:
        with pytest.raises(ValueError, match="the reply"):
            parse_chain(reply, question)
    for reply in {rule.evaluation(THREE.text, "3 plus 4 is 7 .", "7", seed) for seed in range(99)}:
        with pytest.raises(ValueError, match="the reply"):
            parse_evaluation(reply)


def test_a_collection_from_the_teacher_has_the_errors_that_it_is_told():
    """Over HTTP: the report's figures are the rule's chances, its rows what the rule says to each seed."""
    rule = ReasoningRule(error=0.2, unfinished=0.1, malformed=0.05, evaluation_error=0.15)
    problems = sums("train", 60)
    questions = [Question(str(n), one.text, str(one.result)) for n, one in enumerate(problems)]
    with ReasonerServer(rule) as server:
        found = collect_reasoning(
            ChatClient(server.endpoint), questions, chains=5, evaluations=1, progress=False
        )
        chains, judged = found.report["chains"], found.report["evaluations"]
        assert (server.answered, server.refused) == (chains["asked"] + judged["asked"], 0)
    assert within(chains["asked"] - chains["kept"], 300, 0.05)
    assert within(sum(row["label"] == row["answer"] for row in found.chains), 300, 0.65)
    assert within(judged["asked"] - judged["kept"], judged["asked"], 0.05)
    by_id = {question.id: problem for question, problem in zip(questions, problems, strict=True)}
    true = [evaluation(by_id[row["id"]], row["rationale"], row["label"])[1] for row in found.evaluations]
    wrong = sum(verdict != row["verdict"] for verdict, row in zip(true, found.evaluations, strict=True))
    assert within(wrong, judged["kept"], 0.15 / 0.95)
    ways = Counter(row["id"] for row in {(r["id"], r["rationale"]): r for r in found.chains}.values())
    assert sum(ways.values()) / len(ways) > 2.5
