"""Start-time fair queueing: virtual time, and what each user has been served in it."""

from collections.abc import Callable

_MAX_IDLE_TAGS = 1024


class VirtualClock:
    """The virtual time of one class, and when each user's last service ends in it."""

    def __init__(self) -> None:
        self._now = 0.0
        self._finish_tags: dict[str, float] = {}
        self._max_tags = _MAX_IDLE_TAGS

    def start_tag(self, user: str) -> float:
        """The tag of a request that begins to wait."""
        return max(self._now, self._finish_tags.get(user, 0.0))

    def finish_tag(self, user: str) -> float:
        return self._finish_tags.get(user, 0.0)

    def serve(self, user: str, start_tag: float, weight_of: Callable[[str], float]) -> None:
        """Advance the time to the start tag, and charge the user."""
        tags = self._finish_tags
        self._now = max(self._now, start_tag)
        tags[user] = start_tag + 1.0 / weight_of(user)
        if len(tags) > self._max_tags:
            # A tag in the past has no effect.
            self._finish_tags = {name: tag for name, tag in tags.items() if tag > self._now}
            self._max_tags = max(_MAX_IDLE_TAGS, 2 * len(self._finish_tags))
