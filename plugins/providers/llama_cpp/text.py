"""From token bytes to text that may be shown: whole characters, cut at stop strings."""

import codecs


class TextStream:
    """Collects the bytes of one answer and lets go what no stop string can still claim.

    A piece of a character waits for its other bytes; bytes that are no UTF-8 become
    U+FFFD; an unfinished character at the end is dropped.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def push(self, piece: bytes) -> str:
        """Add a token's bytes; returns what may be shown now. Sets `stopped` at a stop string."""
        if self.stopped:
            return ""
        text = self._held + self._decoder.decode(piece)
        cut = self._first_stop(text)
        if cut is not None:
            self.stopped, self._held = True, ""
            return text[:cut]
        shown = len(text) - self._held_back(text)
        self._held = text[shown:]
        return text[:shown]

    def finish(self) -> str:
        """What was held back for a stop string that did not come."""
        rest, self._held = self._held, ""
        return rest

    def _first_stop(self, text: str) -> int | None:
        places = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        return min(places, default=None)

    def _held_back(self, text: str) -> int:
        """The length of the longest end of the text that begins a stop string."""
        return max((_overlap(text, stop) for stop in self._stops), default=0)


def _overlap(text: str, stop: str) -> int:
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
