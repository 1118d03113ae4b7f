"""What the hooks of one model share, and who steers the model just now: nothing here adds or counts columns."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from hf_icon2.directions.vectors import DirectionVectors
from hf_icon2.steering.plans import Plan


class SteeringState:
    """What the hooks of one model share: its default directions and, per thread, the active plan.

    Attributes:
        steered_elsewhere: Whether any thread is inside a `steer` block: passes of a thread that is in none, and
            never was, may then have been meant to be steered.
    """

    def __init__(self, hidden_size: int, num_layers: int, directions: DirectionVectors | None = None) -> None:
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.directions = directions
        self._forget_threads()

    def _forget_threads(self) -> None:
        self._local = threading.local()
        self._lock = threading.Lock()
        self._open_blocks = 0
        self.steered_elsewhere = False

    def check(self, directions: DirectionVectors) -> None:
        """Raises TypeError for what are no directions, ValueError for those of a model of another shape."""
        if not isinstance(directions, DirectionVectors):
            raise TypeError(
                f"expected DirectionVectors, got {type(directions).__name__}; load them with "
                "DirectionVectors.from_pretrained(folder or repo)"
            )
        directions.check_model(self.hidden_size, self.num_layers)

    @property
    def plan(self) -> Plan | None:
        """The plan of this thread, None while nothing is steered."""
        return getattr(self._local, "plan", None)

    @contextmanager
    def active(self, plan: Plan | None) -> Iterator[None]:
        """Steers this thread's forward passes by `plan`; an outer plan is set aside and comes back."""
        outer = self.plan
        self._local.plan = plan
        try:
            yield
        finally:
            self._local.plan = outer

    @contextmanager
    def open_block(self) -> Iterator[None]:
        """Lets other threads know that a `steer` block is open."""
        self._count_blocks(1)
        try:
            yield
        finally:
            self._count_blocks(-1)

    def _count_blocks(self, change: int) -> None:
        with self._lock:
            self._open_blocks += change
            self.steered_elsewhere = self._open_blocks > 0

    def check_stray(self, module: nn.Module, inputs: Mapping[str, Any]) -> None:
        """Speaks up about an unsteered pass of a thread that a `steer` block of another thread may be meant for.

        Raises:
            ValueError: If the pass comes from a continuous batch or a replica of `nn.DataParallel`, which always
                run in threads of their own.
        """
        if hasattr(self._local, "plan"):
            return  # this thread steers this model at times, so it knows
        if inputs.get("cache") is not None and inputs.get("cu_seq_lens_q") is not None:
            raise ValueError(
                "continuous batching runs in a thread of its own, which steer() does not reach; call "
                "make_steerable(model, directions) first, then generate_batch(steering=...)"
            )
        if getattr(module, "_is_replica", False):  # set by torch on the copies it makes per device
            raise ValueError(
                "nn.DataParallel runs the model in threads of its own, which steer() does not reach; run one "
                "process per device instead, for instance with `accelerate launch`"
            )
        warnings.warn(
            f"thread {threading.current_thread().name!r} runs this model unsteered while another thread is "
            "inside steer(), which reaches its own thread only. Enter steer() in this thread, or use "
            "generate(steering=...); steer(model, directions, {}) says that no steering is meant.",
            stacklevel=2,
        )

    def __getstate__(self) -> dict[str, Any]:
        # what belongs to threads can be neither copied nor pickled, and a copy must not share it
        return {name: self.__dict__[name] for name in ("hidden_size", "num_layers", "directions")}

    def __setstate__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)
        self._forget_threads()
