"""The toy's black box: the rule by which it ranks, and its server over real HTTP."""

import json
import math
import random
import statistics
import subprocess
import sys
import urllib.request
from itertools import combinations
from string import ascii_uppercase
from urllib.error import HTTPError

import pytest
from wordings import as_quoted, tricky_text

from hf_icon2 import ChatClient, Demonstration, RankingJudge
from hf_icon2.judges.chat.records import ChatReply
from hf_icon2.judges.ranking_prompt import prompt_opening, prompt_query, seating
from hf_icon2.toy.answers import Behaviours, variants
from hf_icon2.toy.ranker import RankerServer
from hf_icon2.toy.ranking import Exchange, RankingRule, evidence, read_prompt, static_demonstrations, worth
from hf_icon2.toy.world import instructions, parse_instruction, split_of

STATIC = [Demonstration(*one) for one in static_demonstrations()]
WRONG = [Demonstration(one.question, one.answers[::-1]) for one in STATIC]


def candidates(instruction, rng, count=4):
    """Answers of different behaviours and wordings, with a broken one now and then."""
    pool = set()
    while len(pool) < count:
        behaviours = Behaviours(*(rng.random() < 0.5 for _ in range(3)))
        text = rng.choice(variants(instruction, behaviours))
        pool.add(text if rng.random() > 0.1 else text[: len(text) // 2].strip())
    return rng.sample(sorted(pool), count)


def demonstration(instruction, rng):
    """A right one: four answers of different worth, best first."""
    kinds = [Behaviours(*flags) for flags in ((True, True, True), (True, True, False))]
    kinds += [Behaviours(False, False, True), Behaviours(False, False, False)]
    return Demonstration(instruction.text, tuple(rng.choice(variants(instruction, kind)) for kind in kinds))


def rows(count=200, seed=0):
    rng = random.Random(seed)
    chosen = rng.sample(instructions("validation"), count)
    return [one.text for one in chosen], [candidates(one, rng) for one in chosen]


class Rule:
    """A chat that answers by a rule, without the network between."""

    def __init__(self, rule):
        self.rule = rule

    def complete(self, requests, *, progress=None):
        replies = []
        for request in requests:
            shown, query = read_prompt(request.messages[-1]["content"])
            order = self.rule.rank(query, shown)
            replies.append(ChatReply(" > ".join("ABCDEFGH"[seat] for seat in order)))
        return replies


def agreement(rule, questions, answers, demonstrations):
    """Mean Kendall tau-a of the judge's scores with the worth of the answers; a dropped row counts 0."""
    rankings = RankingJudge(Rule(rule), least_tau=-1).rank(questions, answers, demonstrations)
    taus = []
    for question, given, ranking in zip(questions, answers, rankings, strict=True):
        true = [worth(question, text) for text in given]
        pairs = list(combinations(range(len(given)), 2))
        taus.append(
            sum(
                math.copysign(1, (true[i] - true[j]) * (ranking.scores[i] - ranking.scores[j]))
                for i, j in pairs
                if true[i] != true[j] and ranking.scores[i] != ranking.scores[j]
            )
            / sum(true[i] != true[j] for i, j in pairs)
            if any(true[i] != true[j] for i, j in pairs)
            else 1.0
        )
    return statistics.mean(taus)


def test_without_noise_the_order_is_the_true_one():
    questions, answers = rows()
    rankings = RankingJudge(Rule(RankingRule(noise=0))).rank(questions, answers)
    for question, given, ranking in zip(questions, answers, rankings, strict=True):
        worths = [worth(question, given[index]) for index in ranking.order]
        assert worths == sorted(worths, reverse=True)
        assert len(set(ranking.scores)) == len(given)


def test_worth_of_each_behaviour_by_hand():
    """Two behaviours apply, so each good one counts 0.5, and truth or refusing 0.1 more."""
    for question, answers in static_demonstrations():
        assert [worth(question, text) for text in answers] == pytest.approx([1.1, 0.6, 0.5, 0.0])
        assert worth(question, "blah") == 0


def test_right_demonstrations_help_and_wrong_ones_harm():
    questions, answers = rows()
    rng = random.Random(1)
    dynamic = [demonstration(one, rng) for one in rng.sample(instructions("train"), 4)]
    wrong = [Demonstration(one.question, one.answers[::-1]) for one in dynamic]
    arms = [[*STATIC, *dynamic], STATIC, [], WRONG, [*WRONG, *wrong]]
    taus = [agreement(RankingRule(), questions, answers, arm) for arm in arms]
    assert all(better > worse + 0.02 for better, worse in zip(taus, taus[1:], strict=False)), taus


def test_without_coupling_demonstrations_change_nothing():
    questions, answers = rows()
    judge = RankingJudge(Rule(RankingRule(coupling=0)))
    plain = judge.rank(questions, answers)
    assert judge.rank(questions, answers, STATIC) == plain
    assert judge.rank(questions, answers, WRONG * 3) == plain
    assert RankingJudge(Rule(RankingRule(coupling=0.5))).rank(questions, answers, STATIC) != plain


def test_the_share_of_bias_decides_what_asking_twice_can_filter():
    """With bias alone both replies agree, always; with none of it they differ as two draws do."""
    questions, answers = rows(60)
    lasting = RankingJudge(Rule(RankingRule(noise=1, bias=1)), least_tau=1).rank(questions, answers)
    passing = RankingJudge(Rule(RankingRule(noise=1, bias=0)), least_tau=1).rank(questions, answers)
    assert all(ranking.scores for ranking in lasting)
    assert sum(ranking.scores is None for ranking in passing) > 30


def test_the_noise_has_the_deviation_it_is_told():
    """The rule's noise is recovered from how often it errs: P(error) = Phi(-gap / (sigma sqrt 2)), by hand."""
    rule = RankingRule(noise=0.5, bias=0.5)
    errors, asked = 0, 0
    for instruction in instructions("train"):
        if instruction.kind != "fact":
            continue
        good = variants(instruction, Behaviours())[0]
        curt = variants(instruction, Behaviours(True, True, False))[0]
        errors += rule.rank(Exchange(instruction.text, (good, curt), None)) != (0, 1)
        asked += 1
    expected = statistics.NormalDist().cdf(-0.5 / (0.5 * math.sqrt(2)))
    assert abs(errors / asked - expected) < 4 * math.sqrt(expected * (1 - expected) / asked)


def test_evidence_by_hand():
    """A right demonstration of the same kind counts 1, of another 0.25, reversed the negative, twice as once."""
    fact, harmful = (Exchange(q, tuple(a), (0, 1, 2, 3)) for q, a in static_demonstrations())
    reverse = Exchange(fact.question, fact.answers, (3, 2, 1, 0))
    query = Exchange("what colour is the snow ?", ("a", "b"), None)
    assert evidence(query, []) == 0
    assert evidence(query, [fact]) == 1
    assert evidence(query, [fact, harmful]) == 1.25
    assert evidence(query, [fact, fact]) == 1
    assert evidence(query, [reverse]) == -1
    swapped = Exchange(fact.question, fact.answers, (1, 0, 2, 3))
    assert evidence(query, [swapped]) == pytest.approx(4 / 6)
    equal = Exchange(fact.question, tuple(variants(parse_instruction(fact.question)))[:4], (0, 1, 2, 3))
    assert evidence(query, [equal]) == 0
    assert evidence(query, [Exchange("who are you ?", ("a", "b"), (0, 1))]) == 0


def test_static_demonstrations_are_right_and_of_the_training_split():
    for question, answers in static_demonstrations():
        instruction = parse_instruction(question)
        assert split_of(instruction) == "train" and instruction in instructions("train")
        worths = [worth(question, text) for text in answers]
        assert worths == sorted(worths, reverse=True) and len(set(worths)) == len(worths)


@pytest.mark.parametrize("seed", range(20))
def test_what_the_judge_writes_the_toy_reads(seed):
    """Random texts with every sort of line break, headings of the layout among them."""
    rng = random.Random(seed)
    layout = ("Question:", "Answer A:", "Ranking:", "Ranking: A > B", "Example 1", "Your turn")

    def text():
        return tricky_text(rng, layout)

    def texts():
        return list(dict.fromkeys(text() for _ in range(rng.randint(6, 8)))) + ["one", "two"]

    demonstrations = [Demonstration(text(), tuple(texts())) for _ in range(rng.randint(0, 4))]
    question, answers = text(), texts()
    prompt = f"{prompt_opening(demonstrations, seed=seed)}\n\n{prompt_query(question, answers)}"
    found, query = read_prompt(prompt)
    assert query == Exchange(as_quoted(question), tuple(map(as_quoted, answers)), None)
    for given, read in zip(demonstrations, found, strict=True):
        assert read.question == as_quoted(given.question)
        seats = seating(given.question, given.answers, seed)
        assert read.answers == tuple(as_quoted(given.answers[index]) for index in seats)
        assert [read.answers[seat] for seat in read.order] == [as_quoted(answer) for answer in given.answers]


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("What is the colour of the sky?", "has no question"),
        ("Question:\n| q\nAnswer A:\n| a\nAnswer B:\n| b", "has no question"),
        ("Question:\n| q\nAnswer A:\n| a\nRanking:", "fewer than 2 answers"),
        ("Question:\n| q\nAnswer B:\n| a\nAnswer A:\n| b\nRanking:", "answer B is not in its place"),
        (
            "Question:\n| q\n" + "".join(f"Answer {a}:\n| a\n" for a in f"{ascii_uppercase}Z"),
            "answer Z is not",
        ),
        ("Question:\n| q\nAnswer A:\n| a\nAnswer B:\n| b\nRanking: A > A", "'A > A' does not rank"),
        ("Question:\n| q\nAnswer A:\n| a\nAnswer B:\n| b\nRanking: A > B", "is ranked already"),
        (
            "Question:\n| q\nAnswer A:\n| a\nAnswer B:\n| b\nRanking:\n" * 2,
            "before the last one is not ranked",
        ),
    ],
)
def test_another_prompt_is_refused_with_a_sentence(prompt, says):
    with pytest.raises(ValueError, match="ranking prompts only") as caught:
        read_prompt(prompt)
    assert says in str(caught.value)


@pytest.mark.parametrize("settings", [{"noise": -1}, {"noise": math.nan}, {"coupling": 11}, {"bias": 1.1}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="allowed"):
        RankingRule(**settings)


def post(endpoint, body, path="/chat/completions"):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(endpoint + path, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as reply:
            return reply.status, json.load(reply)
    except HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_over_http_the_judge_hears_what_the_rule_says():
    questions, answers = rows(40)
    rule = RankingRule(seed=3)
    with RankerServer(rule) as server:
        rankings = RankingJudge(ChatClient(server.endpoint)).rank(questions, answers, STATIC)
        assert (server.answered, server.refused) == (80, 0)
    assert rankings == RankingJudge(Rule(rule)).rank(questions, answers, STATIC)


def test_a_question_that_is_not_the_toys_fails_with_a_sentence():
    with RankerServer() as server:
        (ranking,) = RankingJudge(ChatClient(server.endpoint)).rank(["who are you ?"], [["a", "b"]])
        assert "own instructions only" in ranking.reason
        assert (server.answered, server.refused) == (0, 2)


def test_the_server_speaks_as_openai_does():
    prompt = f"{prompt_opening(STATIC)}\n\n{prompt_query(STATIC[0].question, STATIC[0].answers)}"
    body = {"model": "any", "messages": [{"role": "user", "content": prompt}]}
    with RankerServer(RankingRule(noise=0)) as server:
        status, reply = post(server.endpoint, body)
        assert status == 200
        assert reply["choices"][0]["message"] == {"role": "assistant", "content": "A > B > C > D"}
        assert reply["choices"][0]["finish_reason"] == "stop"
        assert reply["usage"]["completion_tokens"] == 7
        assert post(server.endpoint, body) == (status, reply)
        for wrong in (
            b"{",
            b"\xff",
            b"[" * 100_000,
            b"[]",
            {},
            {"messages": []},
            {"messages": ["a"]},
            body | {"stream": True},
        ):
            status, reply = post(server.endpoint, wrong)
            assert status == 422 and reply["error"]["message"]
        assert post(server.endpoint, body, "/elsewhere")[0] == 404


def test_it_is_served_from_the_command_line():
    process = subprocess.Popen(
        [sys.executable, "-m", "hf_icon2.toy.ranker", "--noise", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stderr.readline()
        endpoint = line.split()[2]
        prompt = f"{prompt_opening([])}\n\n{prompt_query(STATIC[0].question, STATIC[0].answers[::-1])}"
        status, reply = post(endpoint, {"messages": [{"role": "user", "content": prompt}]})
        assert (status, reply["choices"][0]["message"]["content"]) == (200, "D > C > B > A")
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.mark.parametrize("wrong", [["--noise", "-1"], ["--port", "99999"]])
def test_the_command_refuses_settings_out_of_range(wrong):
    done = subprocess.run(
        [sys.executable, "-m", "hf_icon2.toy.ranker", *wrong],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and "error: " in done.stderr and "Traceback" not in done.stderr


def test_the_ranker_loads_no_torch():
    code = "import sys, hf_icon2.toy.ranker; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
