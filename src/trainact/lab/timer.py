"""Seconds of one epoch: training, evaluation and compilation apart."""

from __future__ import annotations

from collections.abc import Callable


class Timer:
    """A clock with three hands, one of which moves.

    Args:
        now: seconds since some moment.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self.compiled = False
        self.start_epoch()

    def start_epoch(self) -> None:
        """Set all hands to zero; the one of training moves."""
        self._spent = {"seconds": 0.0, "eval_seconds": 0.0, "compile_seconds": 0.0}
        self._part = "seconds"
        self._since = self._now()

    def _book(self, part: str) -> None:
        now = self._now()
        self._spent[part] += now - self._since
        self._since = now

    def set_apart(self) -> None:
        """Book what has passed since the last mark as compilation."""
        self._book("compile_seconds")

    def switch(self) -> None:
        """From training to evaluation."""
        self._book("seconds")
        self._part = "eval_seconds"

    def stop(self) -> None:
        """Book what has passed since the last mark."""
        self._book(self._part)

    def seconds(self) -> dict[str, float]:
        """Read the hands.

        Returns:
            What was booked: ``seconds``, ``eval_seconds`` and ``compile_seconds``.
        """
        return dict(self._spent)

    def go_on(self, spent: dict[str, float] | None = None) -> None:
        """Start the clock inside an epoch.

        Args:
            spent: what `seconds` gave then, or None to leave the hands as they are.
        """
        self._spent = dict(spent or self._spent)
        self._since = self._now()
