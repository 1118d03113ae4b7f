"""The toy's black box as a server: an OpenAI-compatible endpoint on 127.0.0.1 that answers ranking prompts.

    python -m hf_icon2.toy.ranker --port 8000 --noise 2 --coupling 1

How it ranks is `ranking`'s matter. A reply follows from the request and the rule alone, so that runs repeat and what
a client has stored stays valid.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from hashlib import sha256
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from string import ascii_uppercase as LETTERS
from types import TracebackType
from typing import Any

from hf_icon2.toy.ranking import RankingRule, read_prompt

logger = logging.getLogger(__name__)

MODEL = "toy-ranker"
PATH = "/v1/chat/completions"

Answer = tuple[HTTPStatus, dict[str, Any]]


class RankerServer:
    """Serves a `RankingRule` while the context is open.

    Args:
        rule: How it ranks; `RankingRule()` by default.
        port: 0 takes a free one.
    """

    def __init__(self, rule: RankingRule | None = None, *, port: int = 0) -> None:
        self.rule = rule or RankingRule()
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
        """Rankings given so far."""
        return self._counts[HTTPStatus.OK]

    @property
    def refused(self) -> int:
        """Requests answered with an error so far."""
        return self._counts.total() - self.answered

    def __enter__(self) -> RankerServer:
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
            prompt = _prompt(json.loads(body))
            demonstrations, query = read_prompt(prompt)
            order = self.rule.rank(query, demonstrations)
        except (ValueError, RecursionError) as error:
            return _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))
        return HTTPStatus.OK, _completion(prompt, " > ".join(LETTERS[seat] for seat in order))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128  # the default of 5 turns away clients that come all at once

    def __init__(self, port: int, owner: RankerServer) -> None:
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


def _prompt(request: object) -> str:
    """The last message of a request, which must be text."""
    messages = request.get("messages") if isinstance(request, dict) else None
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, dict) else None
    if not isinstance(content, str):
        raise ValueError("the request has no messages, or the last one is not text; send a ranking prompt")
    if isinstance(request, dict) and request.get("stream"):
        raise ValueError("the toy does not stream; leave out stream")
    return content


def _completion(prompt: str, text: str) -> dict[str, Any]:
    read, written = len(prompt.split()), len(text.split())
    return {
        "id": f"toy-{sha256(f'{prompt}/{text}'.encode()).hexdigest()[:16]}",
        "object": "chat.completion",
        "created": 0,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written},
    }


def _refusal(status: HTTPStatus, sentence: str) -> Answer:
    return status, {"error": {"message": sentence, "type": "invalid_request_error", "code": status.value}}


def main(argv: Sequence[str] | None = None) -> None:
    """Serves until interrupted."""
    rule = RankingRule()
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument("--noise", type=float, default=rule.noise, help="standard deviation (%(default)s)")
    parser.add_argument(
        "--coupling", type=float, default=rule.coupling, help="what demonstrations matter (%(default)s)"
    )
    parser.add_argument(
        "--bias", type=float, default=rule.bias, help="share that asking twice leaves (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=rule.seed, help="of the noise (%(default)s)")
    args = parser.parse_args(argv)
    try:
        server = RankerServer(RankingRule(args.noise, args.coupling, args.bias, args.seed), port=args.port)
    except (ValueError, OverflowError, OSError) as error:  # a setting, or the port
        parser.error(str(error))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with server:
        logger.info("ranking at %s (model %s); Ctrl-C ends it", server.endpoint, MODEL)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            logger.info("%d ranked, %d refused", server.answered, server.refused)


if __name__ == "__main__":
    main()
