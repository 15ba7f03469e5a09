"""Draft tokens of one answer, and how often they have been right so far.

Predictions are made even when nothing is drafted: they cost almost nothing, and so the
acceptance rate is known before a row of a batch is spent on a draft.
"""

from plugins.providers.llama_cpp.speculation.acceptance import AcceptanceRates
from plugins.providers.llama_cpp.speculation.prompt_lookup import PromptLookup


class Drafter:
    """Follows an earlier passage as long as the answer repeats it."""

    def __init__(self) -> None:
        self._lookup, self._rates = PromptLookup(), AcceptanceRates()
        # Positions in the text: of the predicted next token, and where a passage stopped matching.
        self._source: int | None = None
        self._mismatch: int | None = None
        self._run = 0

    def observe(self, tokens: list[int]) -> None:
        """The text has one more token, the last of these."""
        if self._source is not None:
            self._check_prediction(tokens, self._source)
        if self._source is None:
            self._source = self._lookup.find(tokens, self._mismatch)

    def expect_accepted(self, limit: int) -> list[float]:
        """Expected accepted tokens of drafts of 1, 2, ... `limit`; [] if nothing is predicted."""
        return [] if self._source is None else self._rates.expect_accepted(self._run, limit)

    def draft(self, tokens: list[int], count: int) -> list[int]:
        """The predicted tokens; a passage that reaches the end of the text is repeated."""
        source = len(tokens) if self._source is None else self._source
        drafted = tokens[source : source + count]
        while drafted and len(drafted) < count:
            drafted += drafted[: count - len(drafted)]
        return drafted

    def reset_positions(self) -> None:
        """The text's tokens have moved; the acceptance rates stay."""
        self._lookup, self._source, self._mismatch, self._run = PromptLookup(), None, None, 0

    def _check_prediction(self, tokens: list[int], source: int) -> None:
        hit = tokens[source] == tokens[-1]
        self._rates.record(self._run, hit=hit)
        self._run = self._run + 1 if hit else 0
        self._source, self._mismatch = (source + 1, None) if hit else (None, source)
