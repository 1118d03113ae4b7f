"""The chat client against endpoints and surroundings as users meet them: each with ways of its own."""

import json
import subprocess
import sys
import threading

import pytest
from chatting import KEY, OWN_TREE, asked, echo, texts
from faulty_server import FaultyServer, completion, scripted

from hf_icon2 import Budget, ChatClient, ChatRequest
from hf_icon2.judges.chat.records import ChatFailure, ChatReply


def sentence(message: str, **more) -> bytes:
    return json.dumps({"error": {"message": message} | more}).encode()


# Models that take other fields.


def complaint(payload: dict) -> bytes:
    """What OpenAI's reasoning models say, one thing at a time."""
    if "max_tokens" in payload:
        return sentence(
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
            "instead.",
            param="max_tokens",
            code="unsupported_parameter",
        )
    return sentence(
        f"Unsupported value: 'temperature' does not support {payload['temperature']} with this model. Only the "
        "default (1) value is supported.",
        param="temperature",
        code="unsupported_value",
    )


def takes_neither(payload: dict, _attempt: int) -> str | None:
    return "400" if "max_tokens" in payload or payload.get("temperature", 1) != 1 else None


def test_a_model_that_wants_other_fields_is_asked_as_it_wants(tmp_path, caplog):
    """Two refusals are all that is lost, also without retries; another client finds the replies in the cache."""
    requests = [asked(str(n), max_tokens=7) for n in range(20)]
    with FaultyServer(echo, plan=takes_neither, refusal=complaint) as server:
        client = ChatClient(server.url, concurrency=1, retries=0, cache=tmp_path / "c")
        assert texts(client.complete(requests)) == [f"answer to {n}" for n in range(20)]
        assert (client.usage.requests, client.usage.retries) == (22, 2)
        assert [seen.fault for seen in server.seen[:3]] == ["400", "400", None]
        for seen in server.seen[2:]:
            assert seen.payload["max_completion_tokens"] == 7
            assert not {"max_tokens", "temperature"} & seen.payload.keys()
        again = ChatClient(server.url, cache=tmp_path / "c")
        assert texts(again.complete(requests)) == [f"answer to {n}" for n in range(20)]
        assert len(server.seen) == 22
    assert caplog.text.count("takes no temperature") == 1


def test_requests_in_flight_together_learn_together():
    """Each of the 8 may be refused twice before it is known, none of the others."""
    with FaultyServer(echo, plan=takes_neither, refusal=complaint, latency=0.01) as server:
        client = ChatClient(server.url, retries=0, window=3)
        assert None not in texts(client.complete([asked(str(n)) for n in range(100)]))
    assert 102 <= len(server.seen) <= 116


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 300. This model supports at most 128 completion tokens.",
        "temperature must be between 0 and 2",
        "Unsupported parameter: 'logprobs' is not supported with this model.",
    ],
)
def test_other_complaints_about_fields_are_failures(message):
    """Without max_tokens a reply could cost more than was booked, and a judge by letters needs their probabilities."""
    with FaultyServer(echo, plan=lambda *_: "400", refusal=sentence(message)) as server:
        (outcome,) = ChatClient(server.url).complete([asked("hi", top_logprobs=5)])
    assert outcome.reason == f"the endpoint answers with status 400: {message}"
    assert len(server.seen) == 1


def test_a_model_that_refuses_whatever_it_is_asked_fails():
    with FaultyServer(echo, plan=lambda *_: "400", refusal=complaint({"max_tokens": 1})) as server:
        (outcome,) = ChatClient(server.url).complete([asked("hi")])
    assert outcome.reason.endswith("Use 'max_completion_tokens' instead.; asked 2 times")
    assert len(server.seen) == 2


# What is said in unusual places.


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": [{"type": "text", "text": "B "}, {"type": "text", "text": "> A"}]}, "B > A"),
        (
            {"content": [{"type": "thinking", "thinking": [{"text": "hm"}]}, {"type": "text", "text": "B"}]},
            "B",
        ),
        ({"content": None, "refusal": "I cannot judge that."}, "I cannot judge that."),
        ({"content": "", "reasoning_content": "A or B?"}, ""),
        (
            {"content": "half a smile: \ud83d, a whole one: \ud83d\ude00"},
            "half a smile: \ufffd, a whole one: 😀",
        ),
    ],
)
def test_a_reply_in_another_form_is_read(message, text):
    body = completion("")
    body["choices"][0]["message"] = {"role": "assistant"} | message
    with FaultyServer(lambda _payload: body) as server:
        (reply,) = ChatClient(server.url).complete([asked("hi")])
    assert reply == ChatReply(text, "stop", (), 1, 1)
    reply.text.encode()


def test_an_alternative_without_a_probability_is_left_out():
    """JSON has no minus infinity; some servers write null."""
    body = completion("A", alternatives={"A": -0.5, "B": None})
    with FaultyServer(lambda _payload: body) as server:
        (reply,) = ChatClient(server.url).complete([asked("hi", top_logprobs=2)])
    assert reply.alternatives == (("A", -0.5),)


def test_a_count_of_tokens_that_cannot_be_counts_as_none(tmp_path):
    with FaultyServer(lambda _payload: completion("yes", prompt_tokens=10**30)) as server:
        client = ChatClient(server.url, cache=tmp_path / "c", budget=Budget(tokens=10**6))
        assert texts(client.complete([asked("a"), asked("b")])) == ["yes", "yes"]
    assert client.usage.prompt_tokens == 0


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<html>Please log in", "Expecting value: line 1 column 1 (char 0); it says '<html>Please log in'"),
        (b"", "it is empty"),
    ],
)
def test_a_body_that_is_not_json_is_quoted(body, said):
    with FaultyServer(lambda _payload: body) as server:
        (outcome,) = ChatClient(server.url, retries=0).complete([asked("hi")])
    assert outcome.reason == f"the reply is no chat completion ({said})"


def test_a_reason_can_be_written_to_a_file():
    with FaultyServer(echo, plan=lambda *_: "400", refusal=sentence("half: \ud83d")) as server:
        (outcome,) = ChatClient(server.url).complete([asked("hi")])
    assert outcome.reason.endswith("half: \ufffd")


# Endpoints that will not answer.


@pytest.mark.parametrize(
    "refusal",
    [
        sentence("You exceeded your current quota.", type="insufficient_quota", code="insufficient_quota"),
        sentence("You exceeded your current quota.", type="insufficient_quota", code=None),
        b'{"message": "You exceeded your current quota.", "type": "insufficient_quota"}',
    ],
)
def test_an_account_without_credit_ends_the_batch(refusal):
    with FaultyServer(echo, plan=lambda *_: "429", refusal=refusal) as server:
        client = ChatClient(server.url, concurrency=2)
        outcomes = client.complete([asked(str(n)) for n in range(10)])
    assert client.stopped == "the endpoint answers with status 429: You exceeded your current quota."
    assert outcomes == [ChatFailure(client.stopped, stopped=True)] * 10
    assert len(server.seen) <= 2


@pytest.mark.parametrize("status", [301, 307])
def test_a_redirect_to_another_host_is_not_shown_the_key(status, monkeypatch):
    monkeypatch.setenv("HF_ICON2_ENDPOINT_KEY", KEY)
    with FaultyServer(echo) as other:
        target = other.url.replace("127.0.0.1", "localhost")
        location = f"{status} Location: {target}/chat/completions?x=1"
        with FaultyServer(echo, plan=lambda *_: location) as server:
            (outcome,) = ChatClient(server.url, retries=0).complete([asked("hi")])
    assert server.seen[0].authorization == f"Bearer {KEY}"
    if status == 307:
        assert [seen.authorization for seen in other.seen] == [None]
    else:  # it becomes a GET, which chat endpoints refuse
        assert outcome.reason.startswith("the endpoint answers with status 501")
        assert outcome.reason.endswith(f"(redirected to {target}/chat/completions; give that address)")


def test_a_forbidden_request_does_not_end_a_batch_that_was_answered_before(tmp_path):
    """Some endpoints forbid single requests; when a batch is taken up, such a one may come first."""

    def plan(payload, _attempt):
        return "403" if payload["messages"][0]["content"] == "b" else None

    requests = [asked(text) for text in "abc"]
    with FaultyServer(echo, plan=plan) as server:
        settings = {"concurrency": 1, "cache": tmp_path / "c"}
        ChatClient(server.url, **settings).complete(requests[:1])
        client = ChatClient(server.url, **settings)
        assert texts(client.complete(requests)) == ["answer to a", None, "answer to c"]
    assert client.stopped is None


def test_who_waits_for_an_endpoint_that_is_not_there_is_told_why_once(caplog):
    with FaultyServer(echo, plan=scripted(*["503"] * 6)) as server:
        client = ChatClient(server.url, backoff=0.01)
        assert None not in texts(client.complete([asked(str(n)) for n in range(9)]))
    assert (
        caplog.text.count(
            "the endpoint answers with status 503: this is fault 503; asking again, up to 6 times"
        )
        == 1
    )


def test_an_endpoint_that_wants_a_models_name_says_so():
    said = sentence("The model `dummy` does not exist.")
    with FaultyServer(echo, plan=lambda *_: "404", refusal=said) as server:
        (outcome,) = ChatClient(server.url).complete([asked("hi")])
    assert outcome.reason == (
        "the endpoint answers with status 404: The model `dummy` does not exist.; give the name of a model that it "
        "serves"
    )


def test_a_key_is_not_shown_in_part_where_a_quote_ends(monkeypatch):
    monkeypatch.setenv("HF_ICON2_ENDPOINT_KEY", KEY)
    with FaultyServer(lambda payload: b"x" * payload["max_tokens"] + KEY.encode()) as server:
        client = ChatClient(server.url, retries=0, window=1000)
        outcomes = client.complete([asked("hi", max_tokens=before) for before in range(30, 220)])
    assert len(server.seen) == 190
    assert all(KEY[:4] not in outcome.reason for outcome in outcomes)


def test_an_address_in_capitals_is_an_address():
    with FaultyServer(echo) as server:
        client = ChatClient(server.url.replace("http://", "HTTP://"))
        assert texts(client.complete([asked("hi")])) == ["answer to hi"]


@pytest.mark.parametrize("ending", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_an_address_may_end_in_any_usual_way(ending):
    with FaultyServer(echo) as server:
        client = ChatClient(server.url.removesuffix("/v1") + ending)
        assert texts(client.complete([asked("hi")])) == ["answer to hi"]


ASK = """
import sys
from hf_icon2 import ChatClient, ChatRequest
try:
    client = ChatClient(sys.argv[1], retries=0)
    print(client.complete([ChatRequest(({"role": "user", "content": "hi"},))])[0])
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "HTTP_PROXY",
            "http://127.0.0.1:9",
            "through a proxy of the environment; NO_PROXY=127.0.0.1 goes around",
        ),
        ("HTTP_PROXY", "ftp://127.0.0.1:9", "ValueError no connection can be made as the environment says"),
        ("SSL_CERT_FILE", "/no/such/file", "ValueError no connection can be made as the environment says"),
        ("HF_HUB_OFFLINE", "1", "unset HF_HUB_OFFLINE"),
        ("TRANSFORMERS_OFFLINE", "1", "unset HF_HUB_OFFLINE and TRANSFORMERS_OFFLINE"),
    ],
)
def test_what_the_environment_spoils_is_named(name, value, said):
    with FaultyServer(echo) as server:
        found = subprocess.run(
            [sys.executable, "-c", ASK, server.url],
            env=OWN_TREE | {name: value},
            capture_output=True,
            text=True,
            check=True,
        )
    assert said in found.stdout
    assert server.seen == []


# Threads.


def test_threads_that_ask_the_same_at_once_send_it_once():
    with FaultyServer(echo, latency=0.05) as server:
        client = ChatClient(server.url)
        found = []
        threads = [
            threading.Thread(target=lambda: found.append(texts(client.complete([asked("a"), asked("b")]))))
            for _ in range(10)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [["answer to a", "answer to b"]] * 10
    assert len(server.seen) == 2
    assert (client.usage.requests, client.usage.cached) == (2, 18)


def test_who_asks_what_another_thread_was_refused_asks_itself():
    with FaultyServer(echo, latency=0.05, plan=scripted("400")) as server:
        client = ChatClient(server.url)
        found = []
        threads = [
            threading.Thread(target=lambda: found.extend(client.complete([asked("a")]))) for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(texts(found), key=str) == [None, *["answer to a"] * 4]
    assert len(server.seen) == 2


def test_many_threads_with_few_requests_never_exceed_the_limit():
    """Six times as many threads as places, while requests are turned away now and then."""

    def plan(_payload, _attempt):
        return (
            ("429", "500", "429 Retry-After: 0.01")[len(server.seen) % 3]
            if len(server.seen) % 40 < 3
            else None
        )

    with FaultyServer(echo, plan=plan, latency=0.002) as server:
        client = ChatClient(server.url, concurrency=5, backoff=0.01, retries=20)
        found = []

        def hot_loop(name):
            for turn in range(5):
                found.extend(texts(client.complete([asked(f"{name} {turn} {n}") for n in range(2)])))

        threads = [threading.Thread(target=hot_loop, args=(name,)) for name in range(30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 300 and None not in found
    assert 2 <= server.most_in_flight <= 5


# Ends.


def test_processes_may_end_while_threads_use_the_cache(tmp_path):
    """As after Ctrl-C; SQLite crashes if its file is closed under a thread that uses it."""
    code = """
import os, pathlib, sys, threading, time
from hf_icon2.judges.chat.budget import Budget, Spending
from hf_icon2.judges.chat.store import ReplyStore

def spend(store):
    try:
        while True:
            store.book(Spending(1), Budget())
    except ValueError:
        pass

for trial in range(6):
    child = os.fork()
    if child == 0:
        store = ReplyStore(pathlib.Path(f"cache-{trial}"))
        for _ in range(8):
            threading.Thread(target=spend, args=(store,), daemon=True).start()
        time.sleep(0.1)
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    found = subprocess.run(
        [sys.executable, "-c", code], env=OWN_TREE, cwd=tmp_path, capture_output=True, text=True
    )
    assert (found.stdout.split(), found.stderr) == (["0"] * 6, "")


# Requests.


def test_requests_may_come_from_a_generator():
    with FaultyServer(echo) as server:
        outcomes = ChatClient(server.url).complete(asked(text) for text in "ab")
    assert texts(outcomes) == ["answer to a", "answer to b"]


@pytest.mark.parametrize("messages", ["hi", {"role": "user", "content": "hi"}, ["hi"], [None], [{}], None])
def test_messages_that_are_no_conversation_are_a_sentence(messages):
    with pytest.raises(ValueError, match="messages must be one or more dicts of texts"):
        ChatRequest(messages)
