"""What one answer is expected to say next, and whether that has come true so far.

The foretelling goes on also where nothing is drafted: it costs next to nothing, and so an
answer's chances are known before a row of a batch is spent on them.
"""

from plugins.providers.llama_cpp.speculation.acceptance import Chances
from plugins.providers.llama_cpp.speculation.prompt_lookup import Lookup


class Drafter:
    """Follows an earlier passage for as long as the answer repeats it."""

    def __init__(self) -> None:
        self._lookup, self._chances = Lookup(), Chances()
        self._place: int | None = None
        self._lost: int | None = None
        self._run = 0

    def observe(self, tokens: list[int]) -> None:
        """The text has one more token, the last of these."""
        if self._place is not None:
            self._judge(tokens, self._place)
        if self._place is None:
            self._place = self._lookup.find(tokens, self._lost)

    def expected(self, most: int) -> list[float]:
        """How many of the next 1, 2, ... `most` tokens would come, none if nothing is foretold."""
        return [] if self._place is None else self._chances.expected(self._run, most)

    def draft(self, tokens: list[int], count: int) -> list[int]:
        """The next tokens; a passage that reaches the text's end is taken to go round."""
        place = len(tokens) if self._place is None else self._place
        drafted = tokens[place : place + count]
        while drafted and len(drafted) < count:
            drafted += drafted[: count - len(drafted)]
        return drafted

    def forget(self) -> None:
        """The text's tokens have other places now; what was learned of its chances stays."""
        self._lookup, self._place, self._lost, self._run = Lookup(), None, None, 0

    def _judge(self, tokens: list[int], place: int) -> None:
        hit = tokens[place] == tokens[-1]
        self._chances.note(self._run, hit=hit)
        self._run = self._run + 1 if hit else 0
        self._place, self._lost = (place + 1, None) if hit else (None, place)
