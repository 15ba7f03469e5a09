"""How fast one sequence alone decodes on this machine, measured on real answers."""

import time

_TOKENS_PER_MEASURE = 16


class SoloSpeed:
    """Times the steps that computed the next tokens of one answer and nothing else."""

    def __init__(self) -> None:
        self.tokens_per_second: float | None = None
        self._started = 0.0
        self._tokens = 0
        self._seconds = 0.0

    def begin(self) -> None:
        """A step's computation starts."""
        self._started = time.monotonic()

    def end(self, drawn: int) -> None:
        """A step of one answer alone is over, which drew so many tokens."""
        self._tokens += drawn
        self._seconds += time.monotonic() - self._started
        if self._tokens >= _TOKENS_PER_MEASURE:
            self.tokens_per_second = self._tokens / self._seconds
            self._tokens, self._seconds = 0, 0.0
