"""The retry policy: whether the same target is tried again, and after which pause."""

import random

from appliance.errors import ApplianceError
from appliance.inference.request.errors import can_retry


class RetryPolicy:
    """Exponential backoff with full jitter: the upper end of the pause doubles with each try.

    A `retry_after` of the error is added to the pause. A pause longer than `max_pause_s`, or
    than the time left until the deadline, is not made.
    """

    def __init__(
        self,
        max_tries: int = 3,
        base_s: float = 0.25,
        max_pause_s: float = 10.0,
        rng: random.Random | None = None,
    ) -> None:
        self._max_tries = max_tries
        self._base_s = base_s
        self._max_pause_s = max_pause_s
        self._rng = rng or random.Random()  # noqa: S311

    def pause_s(self, error: ApplianceError, tries: int, remaining_s: float) -> float | None:
        """Seconds to wait after try number `tries` failed with `error`; None: do not retry."""
        if tries >= self._max_tries or not can_retry(error):
            return None
        upper = min(self._max_pause_s, self._base_s * 2.0 ** (tries - 1))
        pause = (error.retry_after or 0.0) + self._rng.uniform(0.0, upper)
        return pause if pause <= min(self._max_pause_s, remaining_s) else None
