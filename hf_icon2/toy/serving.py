"""An OpenAI-compatible endpoint on 127.0.0.1 that answers by a rule: what the toy's black boxes have in common.

A reply follows from the request and the rule alone, so that runs repeat and what a client has stored stays valid.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

logger = logging.getLogger(__name__)

PATH = "/v1/chat/completions"

Request = Mapping[str, Any]
Answer = tuple[HTTPStatus, dict[str, Any]]
Reply = Callable[[str, Request], str]
"""The last message's text and the whole request -> what is said; ValueError with a sentence refuses (422)."""


class RuleServer:
    """Serves a rule while the context is open.

    Args:
        reply: The rule.
        model: Its name.
        port: 0 takes a free one.
    """

    def __init__(self, reply: Reply, model: str, *, port: int = 0) -> None:
        self.model = model
        self._reply = reply
        self._counts: Counter[HTTPStatus] = Counter()
        self._lock = threading.Lock()
        self._server = _Server(port, self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        """Address to give to a client, with `/v1`."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    @property
    def answered(self) -> int:
        """Replies given so far."""
        return self._counts[HTTPStatus.OK]

    @property
    def refused(self) -> int:
        """Requests answered with an error so far."""
        return self._counts.total() - self.answered

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str, body: bytes) -> Answer:
        """Status and JSON with which a POST request is answered."""
        found = self._answer(path, body)
        with self._lock:
            self._counts[found[0]] += 1
        return found

    def _answer(self, path: str, body: bytes) -> Answer:
        if path != PATH:
            return _refusal(HTTPStatus.NOT_FOUND, f"there is no {path} here; post to {PATH}")
        try:
            request = json.loads(body)
            prompt = _prompt(request)
            said = self._reply(prompt, request)
        except (ValueError, RecursionError) as error:
            return _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        return HTTPStatus.OK, _completion(self.model, prompt, said)

    def serve_until_interrupted(self) -> None:
        """Serves until Ctrl-C, and says where."""
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        with self:
            logger.info("serving at %s (model %s); Ctrl-C ends it", self.endpoint, self.model)
            try:
                threading.Event().wait()
            except KeyboardInterrupt:
                logger.info("%d answered, %d refused", self.answered, self.refused)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # the default of 5 turns away clients that come all at once

    def __init__(self, port: int, owner: RuleServer) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", port), _Handler)

    def handle_error(self, request: object, client_address: object) -> None:
        if isinstance(sys.exception(), ConnectionError):
            logger.debug("%s hung up", client_address)
        else:
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together
    server: _Server

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True
            self._send(_refusal(HTTPStatus.LENGTH_REQUIRED, "the request does not say its Content-Length"))
            return
        self._send(self.server.owner.answer(self.path, self.rfile.read(int(length))))

    def do_GET(self) -> None:
        self._send(_refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"nothing to get here; post to {PATH}"))

    def _send(self, answer: Answer) -> None:
        status, value = answer
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format, *args)


def command_line(description: str) -> argparse.ArgumentParser:
    """A parser with the options that all rules share."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    return parser


def _prompt(request: object) -> str:
    """The last message of a request, which must be text."""
    messages = request.get("messages") if isinstance(request, dict) else None
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, dict) else None
    if not isinstance(content, str):
        raise ValueError("the request has no messages, or the last one is not text; send a prompt")
    if isinstance(request, dict) and request.get("stream"):
        raise ValueError("the toy does not stream; leave out stream")
    return content


def _completion(model: str, prompt: str, text: str) -> dict[str, Any]:
    read, written = len(prompt.split()), len(text.split())
    return {
        "id": f"toy-{sha256(f'{prompt}/{text}'.encode()).hexdigest()[:16]}",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


def _refusal(status: HTTPStatus, sentence: str) -> Answer:
    return status, {"error": {"message": sentence, "type": "invalid_request_error", "code": status.value}}
