"""From token bytes to text that may be shown: whole characters, cut at stop strings."""

import codecs

from appliance.domain.messages import TokenLikelihood


class TextStream:
    """Collects the bytes of one answer and lets go what no stop string can still claim.

    A piece of a character waits for its other bytes; bytes that are no UTF-8 become
    U+FFFD; an unfinished character at the end is dropped. Likelihoods wait with their
    tokens: `told` hands out those of which some text was let go, and a stop string takes
    its tokens' likelihoods with it.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self._decoded = 0
        self._waiting: list[tuple[int, TokenLikelihood]] = []
        self._told: list[TokenLikelihood] = []
        self.stop = ""

    @property
    def stopped(self) -> bool:
        return bool(self.stop)

    def push(self, piece: bytes, likelihood: TokenLikelihood | None = None) -> str:
        """Add a token's bytes; returns what may be shown now. Sets `stop` to a stop string."""
        if self.stopped:
            return ""
        if likelihood is not None:
            self._waiting.append((self._decoded, likelihood))
        fresh = self._decoder.decode(piece)
        self._decoded += len(fresh)
        text = self._held + fresh
        cut, stop = self._first_stop(text)
        if stop:
            self._let_go(self._decoded - len(text) + cut)
            self._waiting.clear()
            self.stop, self._held = stop, ""
            return text[:cut]
        shown = len(text) - self._held_back(text)
        self._held = text[shown:]
        self._let_go(self._decoded - len(self._held))
        return text[:shown]

    def finish(self) -> str:
        """What was held back for a stop string that did not come."""
        rest, self._held = self._held, ""
        self._told += (likelihood for _, likelihood in self._waiting)
        self._waiting.clear()
        return rest

    def told(self) -> tuple[TokenLikelihood, ...]:
        """The likelihoods of the tokens let go since the last call, to be sent with their text."""
        told, self._told = tuple(self._told), []
        return told

    def _let_go(self, shown: int) -> None:
        """Tokens whose text begins before this place in the answer are told."""
        while self._waiting and self._waiting[0][0] < shown:
            self._told.append(self._waiting.pop(0)[1])

    def _first_stop(self, text: str) -> tuple[int, str]:
        """Where the first stop string begins, and which it is; "" if there is none."""
        places = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        return min(places, default=(len(text), ""))

    def _held_back(self, text: str) -> int:
        """The length of the longest end of the text that begins a stop string."""
        return max((overlap(text, stop) for stop in self._stops), default=0)


def overlap(text: str, wanted: str) -> int:
    """How long an end of the text is that begins, but not completes, what is wanted."""
    for length in range(min(len(text), len(wanted) - 1), 0, -1):
        if text.endswith(wanted[:length]):
            return length
    return 0
