"""The cache file: replies that were paid for, and what was spent; one SQLite file for many processes."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_icon2.judges.chat.budget import Budget, Spending
from hf_icon2.judges.chat.records import ChatReply, ChatRequest

_OURS = 0x69636F32  # application_id of the file: "ico2"
_VERSION = 1
_TABLES = (
    "CREATE TABLE replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE account (requests INTEGER, prompt_tokens INTEGER, completion_tokens INTEGER, cost REAL)",
    "INSERT INTO account VALUES (0, 0, 0, 0.0)",
)
_PATIENCE = 60.0  # seconds that another process may hold the file


def request_key(endpoint: str, model: str | None, extra: dict[str, Any], request: ChatRequest) -> str:
    """SHA-256 of the canonical JSON of everything that makes a request, its `repeat` included; no key of anyone.

    Raises:
        ValueError: If the request cannot be sent as JSON.
    """
    asked = asdict(request) | {"temperature": float(request.temperature)}  # 0 and 0.0 are equal
    whole = {"endpoint": endpoint, "model": model, "extra": extra, "request": asked}
    try:
        text = json.dumps(whole, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
    except UnicodeEncodeError:
        raise ValueError(
            "the request cannot be written as JSON (a text holds half of a character, a lone surrogate)"
        ) from None
    except (TypeError, ValueError) as error:
        raise ValueError(f"the request cannot be written as JSON ({error})") from None


class ReplyStore:
    """Replies by the key of their request, and the account of what was spent.

    Replies are stored whole, as they come, in one transaction with what they cost. A process may be killed at any
    moment; several may use one file, and several threads one store. Two processes that ask the same at the same time
    both send it.

    Args:
        path: The file; made if missing, with its folder. None keeps everything in memory.

    Raises:
        OSError: If the file cannot be used: no permission, disk full, held by others for a minute.
        ValueError: If it is damaged or something else.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._process = os.getpid()
        with self._explained():
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(
                path or ":memory:", timeout=_PATIENCE, isolation_level=None, check_same_thread=False
            )
            weakref.finalize(self, _close, self._connection, self._lock, self._process)
            self._prepare()

    def replies(self, keys: Iterable[str]) -> dict[str, ChatReply]:
        """The replies that are known."""
        found = {}
        with self._explained():
            for key in keys:
                row = self._connection.execute("SELECT reply FROM replies WHERE key = ?", (key,)).fetchone()
                if row:
                    found[key] = self._parsed(row[0])
        return found

    def spent(self) -> Spending:
        """The account."""
        with self._explained():
            return self._account()

    def book(self, most: Spending, budget: Budget) -> str | None:
        """Books a request before it is sent; a sentence if the budget does not allow it, and nothing is booked."""
        with self._transaction():
            lacks = budget.lacks(self._account(), most)
            if lacks is None:
                self._add(most)
            return lacks

    def settle(self, booked: Spending, real: Spending, reply: tuple[str, ChatReply] | None = None) -> None:
        """Replaces what was booked, and stores the reply under its key if there is one."""
        with self._transaction():
            self._add(real - booked)
            if reply is not None:
                self._connection.execute(
                    "INSERT OR IGNORE INTO replies VALUES (?, ?)", (reply[0], json.dumps(asdict(reply[1])))
                )

    def _account(self) -> Spending:
        return Spending(*self._connection.execute("SELECT * FROM account").fetchone())

    def _add(self, more: Spending) -> None:
        self._connection.execute(
            "UPDATE account SET requests = requests + ?, prompt_tokens = prompt_tokens + ?, "
            "completion_tokens = completion_tokens + ?, cost = max(0, cost + ?)",
            (more.requests, more.prompt_tokens, more.completion_tokens, more.cost),
        )

    def _prepare(self) -> None:
        """Makes the tables unless they are there; another program's file is left as it is."""
        with self._begun("DEFERRED"):
            self._made()
        self._in_wal_mode()
        self._connection.execute("PRAGMA synchronous = NORMAL")
        with self._begun():
            if not self._made():  # nor by another process meanwhile
                for statement in _TABLES:
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA application_id = {_OURS}")
                self._connection.execute(f"PRAGMA user_version = {_VERSION}")

    def _made(self) -> bool:
        """Whether the file has our tables; False if it is empty."""
        owner = self._pragma("application_id"), self._pragma("user_version")
        if owner == (0, 0) and not self._connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            return False
        if owner != (_OURS, _VERSION):
            raise ValueError(f"{self.path} is a database of something else; give another file as cache=")
        return True

    def _in_wal_mode(self) -> None:
        """Writers then do not hold up readers. SQLite does not wait by itself when two processes switch at once."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
                time.sleep(0.05)

    def _pragma(self, name: str) -> int:
        return int(self._connection.execute(f"PRAGMA {name}").fetchone()[0])

    def _parsed(self, text: str) -> ChatReply:
        try:
            data = json.loads(text)
            data["alternatives"] = tuple((str(token), float(value)) for token, value in data["alternatives"])
            return ChatReply(**data)
        except (ValueError, TypeError, KeyError) as error:
            raise sqlite3.DatabaseError(f"a reply is unreadable: {error}") from None

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained(), self._begun():
            yield

    @contextmanager
    def _begun(self, kind: str = "IMMEDIATE") -> Iterator[None]:
        self._connection.execute(f"BEGIN {kind}")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """One thread at a time, and errors of SQLite as sentences."""
        if os.getpid() != self._process:  # SQLite's connections do not survive a fork
            raise OSError("this chat client was made before the process was forked; make a client in each")
        try:
            with self._lock:
                yield
        except sqlite3.OperationalError as error:
            raise OSError(
                f"the cache {self.path} cannot be used ({error}); its folder must be writable and have room; or give "
                "another cache="
            ) from error
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"the cache {self.path} is damaged or no cache ({error}); move it away, or give another cache="
            ) from error


def _close(connection: sqlite3.Connection, lock: threading.Lock, process: int) -> None:
    """Closes when no thread is in it, which would crash the process; what a forked one inherits is not its own."""
    if os.getpid() == process:
        with lock:
            connection.close()
