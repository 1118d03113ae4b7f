"""An OpenAI-compatible chat endpoint over real HTTP on 127.0.0.1 that fails as told, and notes what it sees.

    with FaultyServer(lambda payload: "Yes.", plan=at_random({"429": 0.2, "cut": 0.2})) as server:
        ChatClient(server.url).complete(...)
    assert server.most_in_flight <= 8

A plan is asked before each answer, with the request's body and how often that body was seen before, and returns
the name of a fault or None:

    "429", "500", ...             that status, with a sentence as JSON
    "429 Retry-After: 0.5"        the same with a header
    "hold"                        no reply until the client hangs up (its timeout)
    "cut"                         a body that ends before its announced length
    "cut 500"                     the same of that status
    "malformed"                   status 200 and half of a JSON text
    "empty"                       status 200 and JSON that is no chat completion
    "wrong"                       the reply's text changed by `wrong`, a fault of content
"""

import contextlib
import hashlib
import json
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[dict], dict | str | bytes]
Plan = Callable[[dict, int], str | None]


@dataclass
class Seen:
    """A request as the server saw it; times are those of time.monotonic(), `end` just before the reply leaves."""

    payload: dict
    attempt: int  # 0 for the first time that this body is seen
    authorization: str | None
    fault: str | None
    begin: float
    end: float | None = None


def completion(
    text: str | None,
    *,
    alternatives: Mapping[str, float] | Iterable[tuple[str, float]] = (),
    prompt_tokens: int = 1,
    completion_tokens: int = 1,
    finish_reason: str = "stop",
) -> dict:
    """The body of a chat completion; `alternatives` are tokens and log-probabilities of the first position."""
    pairs = alternatives.items() if isinstance(alternatives, Mapping) else alternatives
    top = [{"token": token, "logprob": value, "bytes": None} for token, value in pairs]
    logprobs = {"content": [{**top[0], "top_logprobs": top}]} if top else None
    message = {"role": "assistant", "content": text}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "test",
        "choices": [
            {"index": 0, "message": message, "finish_reason": finish_reason, "logprobs": logprobs},
        ],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def at_random(shares: Mapping[str, float], seed: int = 0) -> Plan:
    """A plan that depends on the seed, a request's content and its attempt only, not on order or time."""

    def plan(payload: dict, attempt: int) -> str | None:
        draw = (
            int.from_bytes(hashlib.sha256(f"{seed} {attempt} {_text(payload)}".encode()).digest()[:8]) / 2**64
        )
        for fault, share in shares.items():
            if draw < share:
                return fault
            draw -= share
        return None

    return plan


def scripted(*faults: str | None) -> Plan:
    """A plan that takes the faults in the order in which requests come, then none."""
    left = list(faults)
    return lambda _payload, _attempt: left.pop(0) if left else None


class FaultyServer(ThreadingHTTPServer):
    """Serves POST /v1/chat/completions in a thread of its own, within a `with` block.

    Args:
        answer: Makes the reply's text, or the whole body (see `completion`, or bytes), of a request's body.
        plan: Which attempts fail, and how; none by default.
        latency: Seconds before each reply, also of statuses.
        wrong: Changes the text of replies for the fault "wrong".
        refusal: Body of statuses, or what makes it of a request's body; a sentence as JSON by default.
    """

    request_queue_size = 128
    daemon_threads = True

    def __init__(
        self,
        answer: Answer,
        *,
        plan: Plan | None = None,
        latency: float = 0.0,
        wrong: Callable[[dict, str], str] = lambda _payload, _text: "?",
        refusal: bytes | Callable[[dict], bytes] | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer, self.plan, self.latency, self.wrong, self.refusal = answer, plan, latency, wrong, refusal
        self.seen: list[Seen] = []
        self.most_in_flight = 0
        self.errors: list[BaseException] = []
        self.closing = threading.Event()
        self._lock = threading.RLock()
        self._attempts: Counter[str] = Counter()
        self._open: dict[int, tuple[Seen, socket.socket]] = {}
        self._connections: set[socket.socket] = set()

    @property
    def url(self) -> str:
        """Address of the endpoint, with its /v1."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def in_flight(self) -> int:
        """Requests that are being answered now; one whose client has hung up is not."""
        with self._lock:
            for seen, connection in list(self._open.values()):
                if seen.fault == "hold" and hung_up(connection):
                    self.finish(seen)
            return len(self._open)

    def begin(self, payload: dict, authorization: str | None, connection: socket.socket) -> Seen:
        """Notes a request that has arrived, and asks the plan."""
        with self._lock:
            text = _text(payload)
            attempt = self._attempts[text]
            self._attempts[text] += 1
            fault = self.plan(payload, attempt) if self.plan else None
            seen = Seen(payload, attempt, authorization, fault, time.monotonic())
            self.seen.append(seen)
            self._open[id(seen)] = seen, connection
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            return seen

    def finish(self, seen: Seen) -> None:
        """Notes that a reply is about to leave, or that nobody waits for it."""
        with self._lock:
            if self._open.pop(id(seen), None):
                seen.end = time.monotonic()

    def connected(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)

    def disconnected(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)

    def handle_error(self, request, client_address):
        import sys

        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError):
            self.errors.append(error)  # a mistake in `answer` or `plan`, not of a client that is gone

    def __enter__(self) -> "FaultyServer":
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, kind, *_rest: object) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # the client was faster
                    connection.shutdown(socket.SHUT_RDWR)
        if self.errors and kind is None:
            raise self.errors[0]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open, as at real endpoints
    wbufsize = -1  # head and body leave together
    disable_nagle_algorithm = True
    server: FaultyServer

    def setup(self):
        super().setup()
        self.server.connected(self.connection)

    def finish(self):
        self.server.disconnected(self.connection)
        super().finish()

    def log_message(self, *_args):
        pass

    def do_POST(self):
        length = int(self.headers["Content-Length"])
        data = self.rfile.read(length)
        if len(data) < length:  # the client died while it asked
            self.close_connection = True
            return
        payload = json.loads(data)
        seen = self.server.begin(payload, self.headers["Authorization"], self.connection)
        try:
            self._reply(seen)
        finally:
            self.server.finish(seen)

    def _reply(self, seen: Seen) -> None:
        fault = seen.fault or ""
        if fault == "hold":
            self._hold()
            return
        if self.path != "/v1/chat/completions":
            fault = "404"
        self.server.closing.wait(self.server.latency)
        if fault.removeprefix("cut ")[:3].isdigit():
            self._refuse(seen, fault.removeprefix("cut "), cut=fault.startswith("cut "))
            return
        found = self.server.answer(seen.payload)
        body = completion(found) if isinstance(found, str) else found
        if fault == "wrong":
            message = body["choices"][0]["message"]
            message["content"] = self.server.wrong(seen.payload, message["content"])
        if fault == "empty":
            body = {"object": "error", "message": "the backend is gone"}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        if fault == "malformed":
            data = data[: len(data) // 2]
        self._send(seen, 200, data, cut=fault == "cut")

    def _hold(self) -> None:
        while not self.server.closing.is_set() and not hung_up(self.connection, 0.05):
            pass
        self.close_connection = True

    def _refuse(self, seen: Seen, fault: str, *, cut: bool) -> None:
        status, _, header = fault.partition(" ")
        said = json.dumps({"error": {"message": f"this is fault {status}", "code": int(status)}}).encode()
        refusal = self.server.refusal or said
        data = refusal if isinstance(refusal, bytes) else refusal(seen.payload)
        self._send(seen, int(status), data, header=header, cut=cut)

    def _send(self, seen: Seen, status: int, data: bytes, *, cut: bool = False, header: str = "") -> None:
        self.server.finish(seen)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if header:
            self.send_header(*header.split(": ", 1))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = self.close_connection or cut


def hung_up(connection: socket.socket, seconds: float = 0.0) -> bool:
    """Whether the other side has closed, waiting up to that long for it."""
    try:
        readable, _, _ = select.select([connection], [], [], seconds)
        return bool(readable) and connection.recv(1, socket.MSG_PEEK) == b""
    except (OSError, ValueError):
        return True


def _text(payload: dict) -> str:
    return json.dumps(payload, sort_keys=True)
