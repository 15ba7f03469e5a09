"""Prompt lookup: the text may continue as it did where its last tokens stood before.

Edits repeat most of what they edit, so prompt and answer predict much of the rest, without
a second model and in hardly any time.
"""

_NGRAM = 3
# A long prompt is indexed over several steps, so that no step waits for it.
_INDEXED_PER_CALL = 4096
# An edit seldom replaces more tokens than these before the old text continues.
_MAX_REPLACED = 48


class PromptLookup:
    """Index of the last position of each run of three tokens in a growing text."""

    def __init__(self) -> None:
        self._positions: dict[tuple[int, ...], int] = {}
        self._indexed = 0

    def find(self, tokens: list[int], near: int | None = None) -> int | None:
        """Position behind the last earlier occurrence of the text's last three tokens, or None.

        If a passage was followed up to `near`, the positions just behind it are tried first.
        """
        self._index(tokens)
        end = tokens[-_NGRAM:]
        if near is not None:
            for position in range(max(near, _NGRAM), min(near + _MAX_REPLACED, len(tokens))):
                if tokens[position - _NGRAM : position] == end:
                    return position
        return self._positions.get(tuple(end))

    def _index(self, tokens: list[int]) -> None:
        """Index the runs that a token follows, so not the last one."""
        start = self._indexed
        end = min(max(start, len(tokens) - _NGRAM), start + _INDEXED_PER_CALL)
        runs = zip(*(tokens[start + at : end + at] for at in range(_NGRAM)), strict=True)
        self._positions.update(zip(runs, range(start + _NGRAM, end + _NGRAM), strict=True))
        self._indexed = end
