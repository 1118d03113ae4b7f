"""Answers so far, beside the file they are for, so that a killed command goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm

from hf_icon2.storage import read_json_lines, write_json_lines

if TYPE_CHECKING:
    from hf_icon2.evaluation.dialogues import Question, Replies


class PartialAnswers:
    """A file of settings and of the answers made under them, written whole after every part.

    Args:
        target: The file that will hold all answers; this one stands beside it.
        settings: All that the answers depend on.

    Raises:
        ValueError: If there are answers made under other settings.
    """

    def __init__(self, target: Path, settings: dict[str, Any]) -> None:
        from hf_icon2.evaluation.dialogues import Replies

        self.path = target.with_name(f"{target.name}.partial")
        self._settings = json.loads(json.dumps(settings))
        self._replies: list[Replies] = []
        if not self.path.is_file():
            return
        found, *rows = read_json_lines(self.path) or [{}]
        if found != self._settings:
            other = [name for name in self._settings if dict(found).get(name) != self._settings[name]]
            raise ValueError(
                f"{self.path} holds answers made with other settings ({', '.join(other)}); delete it to begin anew, or "
                "give another --output"
            )
        self._replies = [Replies(*map(tuple, row)) for row in rows]

    def complete(
        self, questions: Sequence[Question], answer: Callable[[Sequence[Question]], list[Replies]], size: int
    ) -> list[Replies]:
        """Answers what is not answered yet, `size` questions at a time, and returns all answers."""
        with tqdm(desc="answer", total=len(questions), initial=len(self._replies)) as bar:
            while len(self._replies) < len(questions):
                part = questions[len(self._replies) : len(self._replies) + size]
                self._replies += answer(part)
                write_json_lines(self.path, [self._settings, *self._replies])
                bar.update(len(part))
        return self._replies

    def remove(self) -> None:
        """Removes the file, once all answers are written."""
        self.path.unlink(missing_ok=True)
