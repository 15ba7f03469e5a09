"""Prompt lookup: where the end of a text stood before, the text may go on as it did there.

Edits repeat most of what they edit, so the prompt and the answer so far foretell much of
the rest; it takes no second model, and hardly any time.
"""

_GRAM = 3
# A long prompt is learned over several steps, so that no step waits for it.
_LEARNED_AT_ONCE = 4096
# An edit seldom replaces more tokens than these before the old text goes on.
_REPLACED = 48


class Lookup:
    """Where each run of three tokens stood last, in a text that grows at its end."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, ...], int] = {}
        self._learned = 0

    def find(self, tokens: list[int], near: int | None = None) -> int | None:
        """The place of the token that followed the text's last three before, if they stood there.

        Where a passage was followed up to `near`, its rest is tried first.
        """
        self._learn(tokens)
        end = tokens[-_GRAM:]
        if near is not None:
            for place in range(max(near, _GRAM), min(near + _REPLACED, len(tokens))):
                if tokens[place - _GRAM : place] == end:
                    return place
        return self._places.get(tuple(end))

    def _learn(self, tokens: list[int]) -> None:
        """All runs that something follows: not the last one."""
        start = self._learned
        end = min(max(start, len(tokens) - _GRAM), start + _LEARNED_AT_ONCE)
        runs = zip(*(tokens[start + at : end + at] for at in range(_GRAM)), strict=True)
        self._places.update(zip(runs, range(start + _GRAM, end + _GRAM), strict=True))
        self._learned = end
