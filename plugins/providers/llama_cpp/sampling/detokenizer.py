"""From token bytes to text that can be sent: whole characters, cut at stop strings."""

import codecs

from appliance.domain.messages import TokenLikelihood


class TextStream:
    """Collects the bytes of one answer and releases text that can't be part of a stop string.

    A part of a character waits for its other bytes; bytes that are not UTF-8 become U+FFFD; an
    unfinished character at the end is dropped. A token's likelihood waits until some of its text
    is released; those of a stop string's tokens are dropped.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._withheld = ""
        self._decoded = 0
        self._pending_likelihoods: list[tuple[int, TokenLikelihood]] = []
        self._released_likelihoods: list[TokenLikelihood] = []
        self.stop = ""

    @property
    def stopped(self) -> bool:
        return bool(self.stop)

    def push(self, piece: bytes, likelihood: TokenLikelihood | None = None) -> str:
        """Add a token's bytes; returns the text to send now. Sets `stop` at a stop string."""
        if self.stopped:
            return ""
        if likelihood is not None:
            self._pending_likelihoods.append((self._decoded, likelihood))
        decoded = self._decoder.decode(piece)
        self._decoded += len(decoded)
        text = self._withheld + decoded
        cut, stop = self._first_stop(text)
        if stop:
            self._release_likelihoods(self._decoded - len(text) + cut)
            self._pending_likelihoods.clear()
            self.stop, self._withheld = stop, ""
            return text[:cut]
        end = len(text) - self._withheld_length(text)
        self._withheld = text[end:]
        self._release_likelihoods(self._decoded - len(self._withheld))
        return text[:end]

    def finish(self) -> str:
        """The text that was withheld for a stop string that did not come."""
        rest, self._withheld = self._withheld, ""
        self._released_likelihoods += (likelihood for _, likelihood in self._pending_likelihoods)
        self._pending_likelihoods.clear()
        return rest

    def take_likelihoods(self) -> tuple[TokenLikelihood, ...]:
        """Likelihoods of the tokens released since the last call, to be sent with their text."""
        released, self._released_likelihoods = tuple(self._released_likelihoods), []
        return released

    def _release_likelihoods(self, end: int) -> None:
        """Release those of tokens whose text starts before this position of the answer."""
        while self._pending_likelihoods and self._pending_likelihoods[0][0] < end:
            self._released_likelihoods.append(self._pending_likelihoods.pop(0)[1])

    def _first_stop(self, text: str) -> tuple[int, str]:
        """Where the first stop string starts, and which it is; "" if there is none."""
        matches = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        return min(matches, default=(len(text), ""))

    def _withheld_length(self, text: str) -> int:
        """Length of the longest end of the text that starts a stop string."""
        return max((partial_match_length(text, stop) for stop in self._stops), default=0)


def partial_match_length(text: str, pattern: str) -> int:
    """Length of the end of the text that starts, but does not complete, the pattern."""
    for length in range(min(len(text), len(pattern) - 1), 0, -1):
        if text.endswith(pattern[:length]):
            return length
    return 0
