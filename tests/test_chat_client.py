"""The chat client against an endpoint over real HTTP that fails: nothing lost, paid for twice, or overspent."""

import dataclasses
import email.utils
import json
import logging
import os
import random
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from asking_chat import requests as numbered
from chatting import KEY, OWN_TREE, TESTS, asked, echo, texts
from faulty_server import FaultyServer, at_random, completion, scripted
from huggingface_hub import constants

from hf_icon2 import Budget, ChatClient, ChatRequest, Prices
from hf_icon2.judges.chat.asking import wanted_pause
from hf_icon2.judges.chat.gate import Gate
from hf_icon2.judges.chat.keys import key_for
from hf_icon2.judges.chat.records import ChatFailure, ChatReply
from hf_icon2.judges.chat.store import request_key


def spent(cache: Path) -> tuple:
    with sqlite3.connect(cache) as connection:
        row = connection.execute(
            "SELECT requests, prompt_tokens, completion_tokens, cost FROM account"
        ).fetchone()
    connection.close()
    return row


# What comes back.


def test_replies_come_in_order_with_all_that_the_endpoint_said(capsys):
    def answer(payload):
        return completion(
            echo(payload),
            alternatives={"A": -0.5, "B": -1.5},
            prompt_tokens=7,
            completion_tokens=3,
            finish_reason="length",
        )

    requests = [asked(str(index), top_logprobs=5, seed=1, top_p=0.5, temperature=0.25) for index in range(30)]
    with FaultyServer(answer) as server:
        client = ChatClient(
            server.url, "some/model", extra={"reasoning_effort": "low"}, prices=Prices(1.0, 2.0)
        )
        outcomes = client.complete(requests, progress="judging")
    expected = (("A", -0.5), ("B", -1.5))
    assert outcomes == [ChatReply(f"answer to {index}", "length", expected, 7, 3) for index in range(30)]
    sent = server.seen[0].payload
    assert sent.items() >= {
        "model": "some/model", "max_tokens": 256, "temperature": 0.25, "top_p": 0.5, "seed": 1,
        "logprobs": True, "top_logprobs": 5, "reasoning_effort": "low",
    }.items()  # fmt: skip
    assert (client.usage.requests, client.usage.retries, client.usage.cached) == (30, 0, 0)
    assert client.usage.cost == pytest.approx(30 * (7 * 1.0 + 3 * 2.0) / 1e6)
    assert str(client.usage) == (
        "30 requests sent (0 again), 0 answered from the cache, 210 prompt and 90 completion tokens, $0.0004"
    )
    bar = capsys.readouterr().err
    assert "judging" in bar and "30/30" in bar and "$0.0004" in bar


def test_a_reply_without_text_usage_or_log_probabilities_is_a_reply():
    """Thinking models that ran out of tokens say null."""
    body = completion(None)
    del body["usage"], body["choices"][0]["logprobs"]
    with FaultyServer(lambda _payload: body) as server:
        assert ChatClient(server.url).complete([asked("hi")]) == [ChatReply("", "stop")]


@pytest.mark.parametrize(
    "fault",
    ["429", "429 Retry-After: 0.02", "500", "503", "408", "hold", "cut", "cut 500", "malformed", "empty"],
)
def test_a_fifth_of_faults_loses_nothing(fault, tmp_path):
    requests = numbered(100)
    with FaultyServer(echo, plan=at_random({fault: 0.2})) as server:
        client = ChatClient(
            server.url, timeout=0.25 if fault == "hold" else 30, backoff=0.01, cache=tmp_path / "c"
        )
        outcomes = client.complete(requests)
    assert texts(outcomes) == [f"answer to question {index}" for index in range(100)]
    faults = sum(seen.fault is not None for seen in server.seen)
    assert faults > 10
    assert (client.usage.requests, client.usage.retries) == (100 + faults, faults)
    assert server.most_in_flight <= 8
    assert spent(tmp_path / "c")[0] == 100 + faults


def test_a_fifth_of_all_faults_together_loses_nothing():
    kinds = ["429", "429 Retry-After: 0.02", "500", "hold", "cut", "malformed", "empty"]
    with FaultyServer(echo, plan=at_random(dict.fromkeys(kinds, 0.2 / len(kinds)), seed=1)) as server:
        outcomes = ChatClient(server.url, timeout=0.5, backoff=0.01).complete(numbered(200))
    assert texts(outcomes) == [f"answer to question {index}" for index in range(200)]
    assert {seen.fault for seen in server.seen} == {None, *kinds}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("500", "the endpoint answers with status 500: this is fault 500; asked 3 times"),
        ("cut 500", "the endpoint answers with status 500; asked 3 times"),
        ("hold", "the endpoint gives no answer in 0.2 s; asked 3 times"),
        ("cut", "the connection broke off (peer closed connection without sending"),
        ("malformed", "the reply is no chat completion (Unterminated string"),
        ("empty", "the reply is no chat completion (it says 'the backend is gone'); asked 3 times"),
    ],
)
def test_what_never_passes_is_a_failure_with_its_reason(fault, reason):
    with FaultyServer(echo, plan=lambda _payload, _attempt: fault) as server:
        (outcome,) = ChatClient(server.url, retries=2, timeout=0.2, backoff=0.01).complete([asked("hi")])
    assert outcome.reason.startswith(reason) and not outcome.stopped
    assert len(server.seen) == 3


@pytest.mark.parametrize("status", ["400", "404", "413", "422"])
def test_what_cannot_pass_is_asked_once_and_the_others_are_answered(status):
    def plan(payload, _attempt):
        return status if payload["messages"][0]["content"] == "question 3" else None

    with FaultyServer(echo, plan=plan) as server:
        outcomes = ChatClient(server.url).complete(numbered(10))
    assert outcomes[3] == ChatFailure(f"the endpoint answers with status {status}: this is fault {status}")
    assert len(server.seen) == 10 and texts(outcomes).count(None) == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'["no", "dict"]', '["no", "dict"]'),
        (b'{"detail": "too\\nlong"}', "too long"),
        (b'{"error": "no model"}', "no model"),
        (b"x" * 5000, "x" * 200 + " ..."),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_whatever_a_server_says_with_a_refusal_is_repeated_in_short(body, said):
    with FaultyServer(echo, plan=lambda _payload, _attempt: "400", refusal=body) as server:
        (outcome,) = ChatClient(server.url).complete([asked("hi")])
    assert outcome.reason == f"the endpoint answers with status 400: {said}"


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"choices": []},
        {"choices": [{}]},
        {"choices": "none"},
        {"choices": [{"message": {"content": 5}}]},
        {"choices": [None]},
        {
            "choices": [
                {"message": {"content": "A"}, "logprobs": {"content": [{"top_logprobs": [{"logprob": "x"}]}]}}
            ]
        },
    ],
)
def test_json_that_is_no_chat_completion_is_a_failure_not_an_exception(body):
    with FaultyServer(lambda _payload: body) as server:
        (outcome,) = ChatClient(server.url, retries=1, backoff=0.01).complete([asked("hi")])
    assert isinstance(outcome, ChatFailure) and outcome.reason.startswith("the reply is no chat completion")
    assert len(server.seen) == 2


def test_an_endpoint_that_is_not_there_is_a_reason():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    (outcome,) = ChatClient(f"http://127.0.0.1:{port}/v1", retries=1, backoff=0.01).complete([asked("hi")])
    assert re.fullmatch(r"the endpoint cannot be reached \(.*refused\); asked 2 times", outcome.reason)


def test_text_that_no_json_can_hold_fails_alone():
    with FaultyServer(echo) as server:
        outcomes = ChatClient(server.url).complete(
            [asked("\ud800"), asked("b", temperature=float("nan")), asked("c")]
        )
    assert [
        outcome.reason.startswith("the request cannot be written as JSON") for outcome in outcomes[:2]
    ] == [True] * 2
    assert texts(outcomes)[2] == "answer to c"
    assert len(server.seen) == 1


def test_the_offline_switch_of_the_hub_is_named(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with FaultyServer(echo) as server:
        client = ChatClient(server.url)
        outcomes = client.complete(numbered(5))
    assert "unset HF_HUB_OFFLINE" in client.stopped
    assert outcomes == [ChatFailure(client.stopped, stopped=True)] * 5


# How many at a time, and when.


def test_threads_that_share_a_client_share_its_limit():
    kinds = {"429": 0.05, "500": 0.05, "hold": 0.02, "cut": 0.05, "malformed": 0.05}
    with FaultyServer(echo, plan=at_random(kinds), latency=0.002) as server:
        client = ChatClient(server.url, concurrency=5, timeout=0.5, backoff=0.01)
        found = {}

        def hot_loop(name):
            found[name] = [
                text
                for turn in range(4)
                for text in texts(client.complete([asked(f"{name} {turn} {n}") for n in range(15)]))
            ]

        threads = [threading.Thread(target=hot_loop, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {
        name: [f"answer to {name} {turn} {n}" for turn in range(4) for n in range(15)] for name in "abcd"
    }
    assert server.most_in_flight == 5


def test_the_limit_falls_when_requests_are_turned_away_and_recovers():
    """An endpoint that serves 3 at a time turns away what is more, for the first 300 requests. So long it keeps its
    replies while the client may send a fourth request, which thus always comes, however slow the machine is."""
    seen = []

    def overrun():
        return len(server.seen) < 300 and client.stopped is None

    def plan(_payload, _attempt):
        return "429" if server.in_flight >= 3 and overrun() else None

    def answer(payload):
        while client.allowed > 3 and overrun() and not server.closing.wait(0.001):
            pass
        seen.append((len(server.seen), client.allowed))
        return echo(payload)

    with FaultyServer(answer, plan=plan, latency=0.002) as server:
        client = ChatClient(server.url, concurrency=16, backoff=0.02, retries=8)
        assert client.allowed == 16
        outcomes = client.complete(numbered(700))
    assert texts(outcomes) == [f"answer to question {index}" for index in range(700)]
    assert min(allowed for _, allowed in seen) <= 3
    assert client.allowed == 16
    early = sum(fault.fault is not None for fault in server.seen[150:300])
    assert early < 75  # once it has learned, most requests fit


def test_a_gate_halves_once_per_wave_and_grows_by_one_per_wave():
    """16 in flight, two turned away: 8. One that entered after: 4; to 1, no lower. Then 1 + 1/1 = 2, 2 + 1/2 = 2.5,
    2.5 + 1/2.5 = 2.9, and never above 16."""
    gate = Gate(16)
    entered = time.monotonic()
    gate.overrun(entered)
    gate.overrun(entered)
    assert gate.allowed == 8
    for expected in (4, 2, 1, 1):
        gate.overrun(time.monotonic())
        assert gate.allowed == expected
    found = []
    for _ in range(3):
        gate.succeeded()
        found.append(gate._allowed)
    assert found == pytest.approx([2.0, 2.5, 2.9])
    for _ in range(1000):
        gate.succeeded()
    assert gate.allowed == 16


def test_other_errors_do_not_lower_the_limit():
    with FaultyServer(echo, plan=scripted(*["500"] * 10)) as server:
        client = ChatClient(server.url, backoff=0.01)
        client.complete(numbered(10))
    assert client.allowed == 8


@pytest.mark.parametrize("header", ["Retry-After: 0.4", "the date"])
def test_no_request_comes_while_the_endpoint_wants_none(header):
    """With one place, so that no request can be on its way when the endpoint asks for the pause."""

    def plan(_payload, _attempt):
        if len(server.seen) != 5:
            return None
        date = email.utils.formatdate(time.time() + 1, usegmt=True)
        return f"429 Retry-After: {date}" if header == "the date" else f"429 {header}"

    with FaultyServer(echo, plan=plan) as server:
        client = ChatClient(server.url, concurrency=1, backoff=0.0)
        threads = [
            threading.Thread(target=client.complete, args=([asked(f"{name} {n}") for n in range(6)],))
            for name in "ab"
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert server.seen[5].fault and len(server.seen) == 13
    assert server.seen[6].begin - server.seen[5].end >= (1.0 if header == "the date" else 0.4)


def test_a_pause_is_read_from_seconds_or_a_date_by_the_servers_clock():
    """30 s later by the endpoint's clock, whatever ours says; without its clock, by ours (1445412450 is 07:27:30)."""
    date = {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}
    assert wanted_pause(date | {"date": "Wed, 21 Oct 2015 07:27:30 GMT"}, 0.0) == 30.0
    assert wanted_pause(date, 1445412450.0) == 30.0
    assert wanted_pause(date, 1445412490.0) == 0.0
    assert wanted_pause({"retry-after": " 120 "}, 0.0) == 120.0
    assert wanted_pause({"retry-after": "0.25"}, 0.0) == 0.25
    for text in ("", "soon", "-3", "inf", "nan", "Wed, 99 Oct"):
        assert wanted_pause({"retry-after": text}, 0.0) is None
    assert wanted_pause({}, 0.0) is None


def test_a_pause_too_long_to_wait_for_ends_the_batch():
    with FaultyServer(echo, plan=scripted(None, None, "429 Retry-After: 3600")) as server:
        client = ChatClient(server.url, concurrency=1)
        outcomes = client.complete(numbered(6))
        assert "it wants no requests for 3600 s" in client.stopped
    assert [isinstance(outcome, ChatReply) for outcome in outcomes] == [
        True,
        True,
        False,
        False,
        False,
        False,
    ]
    assert all(outcome.stopped for outcome in outcomes[2:])


def test_ctrl_c_ends_a_batch_whose_requests_hang(tmp_path):
    """The requests would hang for ten minutes."""
    code = (
        "from asking_chat import requests\n"
        "from hf_icon2 import ChatClient\n"
        f"ChatClient({{url!r}}, timeout=600, cache={str(tmp_path / 'c')!r}).complete(requests(20))\n"
    )
    plan = scripted(None, *["hold"] * 8)
    with FaultyServer(echo, plan=plan) as server:
        program = subprocess.Popen(
            [sys.executable, "-c", code.format(url=server.url)],
            env=OWN_TREE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while len(server.seen) < 9:
            assert program.poll() is None
            time.sleep(0.01)
        program.send_signal(signal.SIGINT)
        _, errors = program.communicate(timeout=60)
    assert program.returncode == -signal.SIGINT and errors.strip().endswith("KeyboardInterrupt")
    assert len(stored(tmp_path / "c")) == 1  # the one that was finished


# When it ends early.


@pytest.mark.parametrize("status", ["401", "402", "403"])
def test_an_endpoint_that_refuses_us_is_not_asked_on(status):
    with FaultyServer(echo, plan=lambda _payload, _attempt: status) as server:
        client = ChatClient(server.url, concurrency=4)
        outcomes = client.complete(numbered(100))
        assert client.stopped == f"the endpoint answers with status {status}: this is fault {status}"
        assert outcomes == [ChatFailure(client.stopped, stopped=True)] * 100
        assert len(server.seen) <= 4
        server.plan = None
        assert None not in texts(client.complete(numbered(100)))
        assert client.stopped is None


def test_one_forbidden_request_among_answered_ones_fails_alone():
    with FaultyServer(echo, plan=scripted(None, None, "403")) as server:
        client = ChatClient(server.url, concurrency=1)
        outcomes = client.complete(numbered(6))
    assert [index for index, text in enumerate(texts(outcomes)) if text is None] == [2]
    assert client.stopped is None


def test_when_most_of_the_last_requests_fail_it_stops_and_says_why():
    """Of the last 20 the 11th failure is one too many: 30 good, 9 good and 11 bad, and nothing after."""
    faults = [None] * 30 + ["400", None] * 9 + ["422", "400"]
    with FaultyServer(echo, plan=scripted(*faults)) as server:
        client = ChatClient(server.url, concurrency=1)
        outcomes = client.complete(numbered(100))
    assert client.stopped == (
        "11 of the last 20 requests failed, mostly because the endpoint answers with status 400: this is fault 400"
    )
    assert len(server.seen) == 50
    assert sum(isinstance(outcome, ChatFailure) and not outcome.stopped for outcome in outcomes) == 11
    assert outcomes[50:] == [ChatFailure(client.stopped, stopped=True)] * 50


# The cache.


def stored(cache: Path) -> set[str]:
    with sqlite3.connect(cache) as connection:
        found = {key for (key,) in connection.execute("SELECT key FROM replies")}
    connection.close()
    return found


def test_any_field_makes_another_request():
    base = ChatRequest(({"role": "system", "content": "Be just."}, {"role": "user", "content": "Hi"}))
    other = {
        "messages": ({"role": "user", "content": "Hi"},),
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "top_logprobs": 2,
        "repeat": 1,
    }
    assert set(other) == {field.name for field in dataclasses.fields(ChatRequest)}
    variants = [base, *(dataclasses.replace(base, **{name: value}) for name, value in other.items())]
    variants.append(
        dataclasses.replace(base, messages=({"role": "system", "content": "Be kind."}, *base.messages[1:]))
    )
    keys = [request_key("http://a/v1", "m", {}, request) for request in variants]
    keys += [
        request_key("http://b/v1", "m", {}, base),
        request_key("http://a/v1", "n", {}, base),
        request_key("http://a/v1", None, {}, base),
        request_key("http://a/v1", "m", {"x": 1}, base),
    ]
    assert len(set(keys)) == len(keys)
    assert request_key("http://a/v1", "m", {}, dataclasses.replace(base, temperature=0)) == keys[0]


def test_equal_requests_are_sent_once_and_repeats_are_not_equal():
    with FaultyServer(echo) as server:
        client = ChatClient(server.url)
        outcomes = client.complete([asked("a"), asked("b"), asked("a"), asked("a", repeat=1)])
        assert client.complete([asked("b")]) == [outcomes[1]]
    assert texts(outcomes) == ["answer to a", "answer to b", "answer to a", "answer to a"]
    assert sorted(seen.payload["messages"][0]["content"] for seen in server.seen) == ["a", "a", "b"]
    assert (client.usage.requests, client.usage.cached) == (3, 2)


def test_what_was_answered_is_never_asked_again_and_failures_are(tmp_path):
    with FaultyServer(echo, plan=at_random({"400": 0.3})) as server:
        settings = {"cache": tmp_path / "new" / "replies.sqlite", "window": 1000}
        first = ChatClient(server.url, **settings).complete(numbered(40))
        failed = [request for request, text in zip(numbered(40), texts(first), strict=True) if text is None]
        assert failed
        server.plan, before = None, len(server.seen)
        client = ChatClient(server.url, **settings)
        second = client.complete(numbered(40))
    assert texts(second) == [f"answer to question {index}" for index in range(40)]
    assert len(server.seen) == before + len(failed)
    assert client.usage.cached == 40 - len(failed)
    assert all(old == new for old, new in zip(first, second, strict=True) if isinstance(old, ChatReply))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("garbage", "is damaged or no cache (file is not a database)"),
        ("cut", "is damaged or no cache (database disk image is malformed)"),
        ("page", "is damaged or no cache (database disk image is malformed)"),
        ("reply", "is damaged or no cache (a reply is unreadable"),
        ("stranger", "is a database of something else; give another file as cache="),
        ("folder", "cannot be used (unable to open database file)"),
    ],
)
def test_a_damaged_cache_is_a_sentence_and_left_alone(damage, message, tmp_path):
    cache = tmp_path / "replies"
    with FaultyServer(echo) as server:
        ChatClient(server.url, cache=cache).complete(numbered(200))
        spoil(cache, damage)
        before = None if damage == "folder" else cache.read_bytes()
        with pytest.raises((ValueError, OSError), match=re.escape(f"{cache} {message}")):
            ChatClient(server.url, cache=cache).complete(numbered(200))
    assert len(server.seen) == 200
    assert damage == "folder" or cache.read_bytes() == before


def spoil(cache: Path, damage: str) -> None:
    whole = cache.read_bytes()
    if damage == "garbage":
        cache.write_bytes(b"no database" * 1000)
    elif damage == "cut":
        cache.write_bytes(whole[: len(whole) // 2])
    elif damage == "page":
        cache.write_bytes(whole[:4096] + b"\x07" * 8192 + whole[12288:])
    elif damage in ("stranger", "folder"):
        cache.unlink()
        if damage == "folder":
            cache.mkdir()
    if damage in ("reply", "stranger"):
        connection = sqlite3.connect(cache)
        connection.executescript(
            "UPDATE replies SET reply = '{'"
            if damage == "reply"
            else "CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)"
        )
        connection.close()


def test_a_cache_that_breaks_while_it_is_used_ends_the_batch_with_a_sentence(tmp_path):
    def answer(payload):
        if len(server.seen) == 10:
            with sqlite3.connect(tmp_path / "c") as connection:
                connection.execute("DROP TABLE replies")
            connection.close()
        return echo(payload)

    with FaultyServer(answer) as server, pytest.raises(OSError, match="cannot be used .no such table"):
        ChatClient(server.url, cache=tmp_path / "c").complete(numbered(100))
    assert len(server.seen) < 40


# Processes.


class Asking:
    """tests/asking_chat.py with an endpoint and a cache."""

    def __init__(self, server: FaultyServer, folder: Path, name: str, prompts: int, **client) -> None:
        self.output = folder / f"{name}.json"
        order = {
            "url": server.url,
            "cache": str(folder / "cache"),
            "prompts": prompts,
            "output": str(self.output),
            "client": client,
        }
        self.program = subprocess.Popen(
            [sys.executable, str(TESTS / "asking_chat.py"), json.dumps(order)],
            env=OWN_TREE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self) -> int:
        self.program.stdin.write("\n")
        self.program.stdin.flush()
        return int(self.program.stdout.readline())

    def status(self) -> int:
        return int(self.program.stdout.readline())

    def outcomes(self) -> list[dict]:
        return json.loads(self.output.read_text())

    def __enter__(self) -> "Asking":
        return self

    def __exit__(self, *_rest: object) -> None:
        self.program.communicate(timeout=60)


def hashed(payload: dict) -> dict:
    """An answer whose every part depends on the question."""
    draw = random.Random(payload["messages"][0]["content"])
    return completion(
        str(draw.random()), prompt_tokens=draw.randint(1, 9), completion_tokens=draw.randint(1, 8)
    )


@pytest.mark.slow
def test_a_batch_killed_at_twenty_random_moments_ends_as_if_it_never_was(tmp_path):
    draw = random.Random(3)
    moments = sorted(draw.sample(range(1, 950), 20))
    hopeless = time.monotonic() + 200
    (tmp_path / "whole").mkdir()
    with FaultyServer(hashed, plan=at_random({"500": 0.03, "cut": 0.03})) as server:
        number = {request_key(server.url, None, {}, request): n for n, request in enumerate(numbered(1000))}
        known_at = []
        with Asking(server, tmp_path, "killed", 1000, backoff=0.01) as killed:
            for moment in moments:
                process = killed.start()
                while len(server.seen) < moment:
                    assert time.monotonic() < hopeless
                    time.sleep(0.0005)
                time.sleep(draw.uniform(0, 0.004))
                os.kill(process, signal.SIGKILL)
                assert killed.status() == -signal.SIGKILL
                known_at.append((len(server.seen), {number[key] for key in stored(tmp_path / "cache")}))
            killed.start()
            assert killed.status() == 0
        sent = list(server.seen)
        with Asking(server, tmp_path / "whole", "whole", 1000, backoff=0.01) as whole:
            whole.start()
            assert whole.status() == 0
    assert killed.outcomes() == whole.outcomes()
    assert len({known for known, _ in known_at}) >= 15
    for known, replies in known_at:
        later = {int(seen.payload["messages"][0]["content"].split()[1]) for seen in sent[known:]}
        assert not later & replies
    faults = sum(seen.fault is not None for seen in sent)
    assert len(sent) <= 1000 + faults + 20 * 8
    # What was in flight when it was killed stays booked; one that was booked may not have left yet.
    assert len(sent) <= spent(tmp_path / "cache")[0] <= len(sent) + 20 * 8


def test_two_processes_may_use_one_cache(tmp_path):
    with (
        FaultyServer(hashed, latency=0.001) as server,
        Asking(server, tmp_path, "first", 200) as first,
        Asking(server, tmp_path, "second", 200) as second,
    ):
        first.start(), second.start()
        assert (first.status(), second.status()) == (0, 0)
    assert first.outcomes() == second.outcomes()
    assert len(stored(tmp_path / "cache")) == 200
    assert spent(tmp_path / "cache")[0] == len(server.seen) <= 400


def test_processes_that_open_a_new_cache_at_the_same_moment_make_it_once(tmp_path):
    code = """
import os, pathlib, time
from hf_icon2.judges.chat.store import ReplyStore
for trial in range(30):
    begin, children = time.monotonic() + 0.01, []
    for _ in range(4):
        child = os.fork()
        if child == 0:
            while time.monotonic() < begin:
                pass
            ReplyStore(pathlib.Path(f"cache-{trial}")).spent()
            os._exit(0)
        children.append(child)
    print([os.waitpid(child, 0)[1] for child in children])
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=OWN_TREE, cwd=tmp_path
    )
    assert found.stdout.splitlines() == ["[0, 0, 0, 0]"] * 30, found.stderr


def test_a_forked_process_makes_its_own_client(tmp_path):
    code = (
        "import os\n"
        "from asking_chat import requests\n"
        "from hf_icon2 import ChatClient\n"
        f"client = ChatClient('http://127.0.0.1:1/v1', cache={str(tmp_path / 'c')!r})\n"
        "child = os.fork()\n"
        "if child: os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
        "client.complete(requests(1))\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=OWN_TREE)
    assert found.returncode == 1 and "make a client in each" in found.stderr


def test_the_client_needs_neither_torch_nor_transformers():
    code = (
        "import sys\n"
        "from hf_icon2 import ChatClient\n"
        "ChatClient('http://127.0.0.1:1/v1')\n"
        "print({'torch', 'transformers', 'datasets', 'numpy'} & set(sys.modules))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=OWN_TREE
    )
    assert found.stdout.strip() == "set()"


# The budget.


def test_a_budget_of_requests_is_used_up_and_never_overrun(tmp_path):
    with FaultyServer(echo, plan=at_random({"500": 0.2}), latency=0.001) as server:
        client = ChatClient(server.url, budget=Budget(requests=50), cache=tmp_path / "c", backoff=0.001)
        outcomes = client.complete(numbered(100))
        assert len(server.seen) == client.usage.requests == 50
        assert client.stopped == "the budget of 50 requests is spent; raise the budget to go on"
        answered = [outcome for outcome in outcomes if isinstance(outcome, ChatReply)]
        assert len(answered) == 50 - sum(seen.fault is not None for seen in server.seen)
        assert {outcome for outcome in outcomes if isinstance(outcome, ChatFailure)} == {
            ChatFailure(client.stopped, stopped=True)
        }
        # A second client goes on where the first ended; what is cached costs nothing.
        again = ChatClient(server.url, budget=Budget(requests=60), cache=tmp_path / "c", backoff=0.001)
        more = again.complete(numbered(100))
        assert len(server.seen) == 60
        assert again.usage.cached == len(answered)
        assert sum(isinstance(outcome, ChatReply) for outcome in more) > len(answered)


@pytest.mark.parametrize("unit", ["tokens", "cost"])
def test_a_budget_holds_whatever_the_concurrency(unit, tmp_path):
    """Replies of 1 to 200 tokens for prompts of 1 to 60; the endpoint's own count is what is compared."""
    charged = []

    def answer(payload):
        draw = random.Random(payload["messages"][0]["content"])
        prompt, reply = draw.randint(1, 20), draw.randint(1, 200)
        charged.append((prompt, reply))
        return completion("x", prompt_tokens=prompt, completion_tokens=reply)

    prices = Prices(1.5, 6.0)
    most = {"tokens": 5000.0, "cost": 0.02}[unit]
    requests = [asked(f"question {n}", max_tokens=200) for n in range(300)]
    with FaultyServer(answer, plan=at_random({"500": 0.1, "429": 0.1, "cut": 0.05}), latency=0.001) as server:
        for concurrency in (16, 3):
            client = ChatClient(
                server.url, budget=Budget(**{unit: most}), prices=prices, cache=tmp_path / "c", concurrency=concurrency,
                backoff=0.01,
            )  # fmt: skip
            client.complete(requests)
            assert client.stopped.startswith("the budget of ")
    if unit == "tokens":
        total, reserve = sum(map(sum, charged)), 300
    else:
        total = sum(prices.cost(*pair) for pair in charged)
        reserve = prices.cost(100, 200)
    cut = sum(seen.fault == "cut" for seen in server.seen)
    assert total <= most
    assert total >= most - (cut + 1) * reserve  # nothing is left but what the next request may take


def test_a_budget_holds_where_every_request_takes_the_most_it_can():
    """Per request "user" and 3 digits, two layouts of 16, and all 61 tokens of the reply: 100. Of 2050, 20 fit."""

    def answer(payload):
        return completion("x", prompt_tokens=39, completion_tokens=payload["max_tokens"])

    with FaultyServer(answer, latency=0.001) as server:
        client = ChatClient(server.url, budget=Budget(tokens=2050), concurrency=7)
        client.complete([asked(str(n), max_tokens=61) for n in range(100, 150)])
        assert client.stopped.startswith(
            "the budget of 2,050 tokens is spent: 2,000 are, and the next request may take 100"
        )
        exact = ChatClient(server.url, budget=Budget(cost=0.1), prices=Prices(10.0, 10.0), concurrency=7)
        exact.complete([asked(str(n), max_tokens=61) for n in range(300, 450)])
    assert (client.usage.requests, exact.usage.requests) == (20, 100)


def test_an_endpoint_that_counts_more_than_was_thought_is_booked_higher_from_then_on():
    """A long prompt of its own: the first request exceeds the estimate, and the others are booked by what it took."""
    with FaultyServer(lambda _payload: completion("x", prompt_tokens=1000, completion_tokens=1)) as server:
        client = ChatClient(server.url, budget=Budget(tokens=4500), concurrency=1)
        client.complete([asked(str(n), max_tokens=1) for n in range(10)])
    assert client.usage.prompt_tokens + client.usage.completion_tokens == 4 * 1001


def test_what_may_have_been_charged_without_a_report_stays_booked(tmp_path):
    """ "hi" is 2 bytes and its role 4, two layouts are 32, and the reply may have 10 tokens."""
    with FaultyServer(echo, plan=scripted("hold", "500", "429")) as server:
        client = ChatClient(
            server.url, timeout=0.2, backoff=0.01, cache=tmp_path / "c", prices=Prices(1e6, 0)
        )
        client.complete([asked("hi", max_tokens=10)])
    assert spent(tmp_path / "c") == (4, 38 + 1, 10 + 1, 39.0)
    assert client.usage.cost == 1.0


def test_two_processes_share_a_budget(tmp_path):
    with FaultyServer(hashed, latency=0.001) as server:
        budget = {"budget": {"requests": 90}}
        with (
            Asking(server, tmp_path, "a", 200, **budget) as first,
            Asking(server, tmp_path, "b", 200, **budget) as second,
        ):
            first.start(), second.start()
            assert (first.status(), second.status()) == (0, 0)
    assert len(server.seen) == 90


# Keys.


def test_the_key_comes_from_the_environment_and_goes_nowhere_else(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HF_ICON2_ENDPOINT_KEY", KEY)
    monkeypatch.setattr(constants, "HF_DEBUG", True)
    caplog.set_level(logging.DEBUG)
    said = json.dumps({"error": {"message": f"wrong key {KEY} for you"}}).encode()
    with FaultyServer(echo, plan=scripted(None, "400", "500", "hold", "401"), refusal=said) as server:
        client = ChatClient(server.url, cache=tmp_path / "c", concurrency=1, timeout=0.2, backoff=0.01)
        outcomes = client.complete(numbered(6))
    assert {seen.authorization for seen in server.seen} == {f"Bearer {KEY}"}
    assert outcomes[1].reason == "the endpoint answers with status 400: wrong key *** for you"
    shown = [repr(outcomes), repr(client), str(client.usage), client.stopped, caplog.text]
    assert client.stopped.endswith("wrong key *** for you")
    assert KEY not in "".join(shown)
    files = list(tmp_path.iterdir())
    assert files and all(KEY.encode() not in file.read_bytes() for file in files)


def test_a_key_that_cannot_stand_in_a_header_is_refused_without_showing_it(monkeypatch):
    monkeypatch.setenv("HF_ICON2_ENDPOINT_KEY", f"{KEY}\nX: y")
    with pytest.raises(ValueError, match="HF_ICON2_ENDPOINT_KEY holds characters") as error:
        ChatClient("http://127.0.0.1:1/v1")
    assert KEY not in str(error.value)


def test_the_hubs_token_is_for_the_hubs_hosts_only(monkeypatch):
    monkeypatch.delenv("HF_ICON2_ENDPOINT_KEY", raising=False)
    own = ["https://router.huggingface.co/v1", "https://x.us-east-1.aws.endpoints.huggingface.cloud/v1"]
    assert [key_for(address) for address in own] == [None, None]
    strangers = [
        "https://nothuggingface.co/v1",
        "http://router.huggingface.co/v1",
        "https://huggingface.co.evil.org",
    ]
    assert [key_for(address) for address in strangers] == ["-", "-", "-"]


@pytest.mark.parametrize(
    "address",
    [
        f"http://me:{KEY}@host/v1",
        f"http://{KEY}@host/v1",
        f"http://host/v1?api_key={KEY}",
        f"http://host/#{KEY}",
    ],
)
def test_an_address_with_a_key_is_refused_without_showing_it(address):
    with pytest.raises(ValueError, match="put the key into the environment variable") as error:
        ChatClient(address)
    assert KEY not in str(error.value)


# Arguments.


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"endpoint": None}, "need model="),
        ({"endpoint": "127.0.0.1:8000"}, "the endpoint is no address"),
        ({"endpoint": "http://host:99999/v1"}, "the endpoint is no address"),
        ({"concurrency": 0}, "concurrency=0 is not allowed; give 1 to 100"),
        ({"timeout": 0}, "timeout=0 is not allowed"),
        ({"retries": -1}, "retries=-1 is not allowed"),
        ({"window": 0}, "window=0 is not allowed"),
        ({"budget": Budget(cost=1.0)}, r"a budget of \$1 needs prices="),
    ],
)
def test_wrong_arguments_are_sentences(settings, message):
    with pytest.raises(ValueError, match=message):
        ChatClient(**{"endpoint": "http://127.0.0.1:1/v1"} | settings)


def test_wrong_requests_budgets_and_prices_are_sentences():
    with pytest.raises(ValueError, match="the budget tokens=-1 is not allowed"):
        Budget(tokens=-1)
    with pytest.raises(ValueError, match="the price output=nan is not allowed"):
        Prices(1.0, float("nan"))
    with pytest.raises(ValueError, match="messages must be one or more dicts"):
        ChatRequest(())
    with pytest.raises(ValueError, match="max_tokens=0 is not allowed"):
        asked("hi", max_tokens=0)
    for wrong in (asked("hi"), "hi", [{"role": "user", "content": "hi"}]):
        with pytest.raises(TypeError, match="takes a list of ChatRequest"):
            ChatClient("http://127.0.0.1:1/v1").complete(wrong)
    assert ChatClient("http://127.0.0.1:1/v1").complete([]) == []
