"""How long to wait before the next try, and when to give up."""

import random

from appliance.errors import ApplianceError
from appliance.inference.request import failures


class Patience:
    """Exponential pauses with full jitter, as wide as `base_s` doubled by each try.

    Where the provider says when to come back, that is the shortest pause. A wait longer
    than `longest_s`, or than what is left of the deadline, is not begun.
    """

    def __init__(
        self,
        tries: int = 3,
        base_s: float = 0.25,
        longest_s: float = 10.0,
        chance: random.Random | None = None,
    ) -> None:
        self._tries = tries
        self._base_s = base_s
        self._longest_s = longest_s
        self._chance = chance or random.Random()  # noqa: S311

    def pause(self, error: ApplianceError, tries: int, left_s: float) -> float | None:
        """Seconds to wait after the try number `tries` failed so; None: do not try again."""
        if tries >= self._tries or not failures.can_retry(error):
            return None
        widest = min(self._longest_s, self._base_s * 2.0 ** (tries - 1))
        pause = (error.retry_after or 0.0) + self._chance.uniform(0.0, widest)
        return pause if pause <= min(self._longest_s, left_s) else None
