"""A progress bar that shows progress alone."""

from __future__ import annotations

from typing import Any

from transformers import ProgressCallback


class QuietBar(ProgressCallback):
    """The only change to transformers' progress bar: the figures of a log go to a report, not to the screen."""

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Prints nothing."""
