"""Finds ambiguity that grows with the text: llama.cpp would follow every parse at once.

With `root ::= "a" root "b" | "a" root "c" | ""` every "a" doubles the number of readings.
The search goes best first over texts that the grammar itself suggests, most parses first.
"""

import heapq
from collections import Counter
from collections.abc import Iterator
from itertools import count

from plugins.providers.llama_cpp.grammar.gbnf_parser import GrammarError
from plugins.providers.llama_cpp.grammar.gbnf_safety import ROOT, Part, Rules

_MOST_READINGS = 48
_LONGEST_TEXT = 200
_MOST_STEPS = 40_000
_MOST_CHARACTERS = 24
_MOST_STACKS = 4000
# Where in a part a reading stands: before it, at its begin, behind it; or at a character.
_BEFORE, _ENTER, _AFTER = -3, -2, -1

Frame = tuple[int, int, int]
Stack = tuple[Frame, ...]


def check_readings(rules: Rules) -> None:
    """Raises GrammarError with a text that can be read in too many ways."""
    _Search(rules).run()


class _Search:
    """Best first over texts; each has the stacks of rules that it can leave open."""

    def __init__(self, rules: Rules) -> None:
        self._sequences: list[list[Part]] = []
        self._rules: dict[str, list[int]] = {}
        for name, sequences in rules.items():
            self._rules[name] = [len(self._sequences) + at for at in range(len(sequences))]
            self._sequences += sequences
        self._steps = 0

    def run(self) -> None:
        numbers = count()
        start = self._settled([((at, 0, _BEFORE),) for at in self._rules[ROOT]])
        todo = [(0, next(numbers), "", start)]
        while todo and self._steps < _MOST_STEPS:
            _, _, text, stacks = heapq.heappop(todo)
            for point in self._characters(stacks):
                longer = text + chr(point)
                following = self._settled(self._after(stacks, point))
                readings = _readings(following)
                if readings > _MOST_READINGS:
                    raise GrammarError(
                        f"the text {longer!r} has more than {_MOST_READINGS} parses; "
                        "merge alternatives that start alike"
                    )
                if len(longer) < _LONGEST_TEXT:
                    heapq.heappush(todo, (-readings, next(numbers), longer, following))

    def _characters(self, stacks: set[Stack]) -> list[int]:
        """Characters that tell all sets apart: each overlap of ranges begins with one's begin."""
        starts: Counter[int] = Counter()
        for stack in stacks:
            if stack:
                sequence, part, at = stack[-1]
                starts.update(low for low, _ in self._sequences[sequence][part].sets[at])
        return [point for point, _ in starts.most_common(_MOST_CHARACTERS)]

    def _after(self, stacks: set[Stack], point: int) -> list[Stack]:
        """The stacks that are left once they have read a character."""
        found: list[Stack] = []
        for stack in stacks:
            if not stack:
                continue
            sequence, part, at = stack[-1]
            sets = self._sequences[sequence][part].sets
            if any(low <= point <= high for low, high in sets[at]):
                place = at + 1 if at + 1 < len(sets) else _AFTER
                found.append((*stack[:-1], (sequence, part, place)))
        return found

    def _settled(self, stacks: list[Stack]) -> set[Stack]:
        """All stacks that these stand for, each with a character to read on top."""
        seen: set[Stack] = set()
        settled: set[Stack] = set()
        todo = list(stacks)
        while todo and len(seen) < _MOST_STACKS:
            stack = todo.pop()
            if stack in seen:
                continue
            seen.add(stack)
            if not stack or stack[-1][2] >= 0:
                settled.add(stack)
            else:
                todo += self._next(stack)
        self._steps += len(seen)
        return settled

    def _next(self, stack: Stack) -> Iterator[Stack]:
        """One step closer to a character, in every possible way."""
        below, (sequence, at, place) = stack[:-1], stack[-1]
        parts = self._sequences[sequence]
        if at == len(parts):
            yield below
        elif place == _AFTER:
            yield (*below, (sequence, at + 1, _BEFORE))
            if parts[at].again:
                yield (*below, (sequence, at, _ENTER))
        elif place == _BEFORE:
            if parts[at].optional:
                yield (*below, (sequence, at + 1, _BEFORE))
            yield (*below, (sequence, at, _ENTER))
        else:
            yield from self._enter(below, sequence, at)

    def _enter(self, below: Stack, sequence: int, at: int) -> Iterator[Stack]:
        """Inside a part; nothing is left to come back to behind the last one."""
        part, last = self._sequences[sequence][at], at == len(self._sequences[sequence]) - 1
        if not part.rule:
            yield (*below, (sequence, at, 0 if part.sets else _AFTER))
            return
        left = below if last and not part.again else (*below, (sequence, at, _AFTER))
        for inner in self._rules[part.rule]:
            yield (*left, (inner, 0, _BEFORE))


def _readings(stacks: set[Stack]) -> int:
    """How often the busiest place is reached, with different rules left open."""
    return max(Counter(stack[-1] for stack in stacks if stack).values(), default=0)
