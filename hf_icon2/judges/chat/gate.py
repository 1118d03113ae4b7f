"""How many requests may be in flight: less when the endpoint is overrun, none while it asks for a pause."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable

logger = logging.getLogger(__name__)

_WORTH_A_WORD = 10.0  # seconds; who waits longer than that wonders why


class Gate:
    """Lets requests through, several threads at once.

    The number allowed in flight is halved when an endpoint turns requests away, and grows by one per as many
    successes as it counts (additive increase, multiplicative decrease). Requests that were in flight together when
    it was halved halve it once.

    Args:
        most: Most in flight, and where it begins.
    """

    def __init__(self, most: int) -> None:
        self.changed = threading.Condition()
        """Guards the state of whoever shares the gate; notified when something changes that one may wait for."""
        self.most = most
        self.in_flight = 0
        self._allowed = float(most)
        self._halved = -math.inf
        self._opens = -math.inf

    @property
    def allowed(self) -> int:
        """How many may be in flight now."""
        return int(self._allowed)

    def enter(self, given_up: Callable[[], bool]) -> bool:
        """Waits for a place, which `leave` returns; False without one if the caller has given up."""
        with self.changed:
            while not given_up():
                closed = self._opens - time.monotonic()
                if closed <= 0 and self.in_flight < self.allowed:
                    self.in_flight += 1
                    return True
                self.changed.wait(closed if closed > 0 else None)
        return False

    def leave(self) -> None:
        """Returns the place."""
        with self.changed:
            self.in_flight -= 1
            self.changed.notify_all()

    def succeeded(self) -> None:
        """Lets more in."""
        with self.changed:
            self._allowed = min(float(self.most), self._allowed + 1 / self._allowed)
            self.changed.notify_all()

    def overrun(self, entered: float) -> None:
        """Lets fewer in, because a request that entered then (of time.monotonic()) was turned away."""
        with self.changed:
            if entered >= self._halved:
                self._allowed = max(1.0, self._allowed / 2)
                self._halved = time.monotonic()

    def pause(self, seconds: float) -> None:
        """Lets none in for so long."""
        now = time.monotonic()
        with self.changed:
            if seconds >= _WORTH_A_WORD and self._opens < now:
                logger.warning("the endpoint asks for a pause of %.0f s", seconds)
            self._opens = max(self._opens, now + seconds)

    def rest(self, seconds: float, given_up: Callable[[], bool]) -> None:
        """Waits so long, outside, or until the caller has given up."""
        until = time.monotonic() + seconds
        with self.changed:
            while not given_up() and (left := until - time.monotonic()) > 0:
                self.changed.wait(left)
