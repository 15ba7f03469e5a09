"""Rejects grammars for which llama.cpp would need too long for one token.

llama.cpp keeps a list of stacks, each one way to go on reading. For a candidate token it follows
every stack through the token's characters, and where one stack becomes several, it follows each
of them, also where two have become equal: what it follows are the runs of a nondeterministic
automaton. With `("a"?){200} "b"` the text "aaa" has more than a million runs, so that one token
takes minutes, and nothing can interrupt it.

This check follows the runs over short texts as llama.cpp does, from every place in the grammar,
and rejects the grammar once there are too many. It costs time proportional to the size of a
grammar without ambiguity. One whose check takes too long is rejected as well.

A place is (sequence, part, copies that are read); a frame is a place to return to, or a
character to read, which has that character's index besides. Stacks are numbers, 0 is the empty
one: each consists of a frame and the stack below it.
"""

from collections import deque
from collections.abc import Iterable, Iterator

from plugins.providers.llama_cpp.grammar.gbnf_parser import GrammarError
from plugins.providers.llama_cpp.grammar.gbnf_safety import ROOT, Part, Rules

_MAX_RUNS = 5000
_MAX_STACKS = 512
_MAX_CLOSURE = 8192
_MAX_WORK = 400_000
# Tokens are seldom longer, but for repetitions of one sign.
_TEXT_LENGTH = 9
_REPETITION_LENGTH = 64
# Characters after which a text is given up whose runs have not become more.
_PATIENCE = 3
_PLACE_SIZE = 3
_FIRST_MIDDLE_COPY = 2

Place = tuple[int, int, int]
Frame = tuple[int, ...]
Runs = dict[int, int]
Step = tuple[tuple[Frame, ...], Place]


def check_runs(rules: Rules) -> None:
    """Raises GrammarError if a token could have too many runs."""
    _RunSearch(rules).check()


class _RunSearch:
    def __init__(self, rules: Rules) -> None:
        self._sequences: list[list[Part]] = []
        self._rules: dict[str, range] = {}
        for name, sequences in rules.items():
            start = len(self._sequences)
            self._sequences += sequences
            self._rules[name] = range(start, len(self._sequences))
        self._numbers: dict[tuple[int, Frame], int] = {}
        self._stacks: list[tuple[int, Frame]] = [(0, ())]
        self._closures: dict[Place, tuple[list[tuple[Frame, ...]], bool]] = {}
        self._after: dict[int, frozenset[int]] = {}
        self._work = 0

    def check(self) -> None:
        """Visit each place in the grammar once, on the first stack that leads to it."""
        start: set[int] = set()
        for sequence in self._rules[ROOT]:
            start |= self._settle(0, (sequence, 0, 0))
        visited: set[Frame] = set()
        known: set[int] = set()
        # By stack the largest set with it that was explored: subsets of it have fewer runs.
        explored: dict[int, frozenset[int]] = {}
        level = [frozenset(start)]
        while level:
            for stacks in sorted(level, key=len, reverse=True):
                within = any(stacks <= explored.get(each, frozenset()) for each in stacks)
                if len(stacks) > 1 and not within:
                    self._explore(stacks)
                    for stack in stacks:
                        if len(stacks) > len(explored.get(stack, ())):
                            explored[stack] = stacks
            reached = dict.fromkeys(stack for stacks in level for stack in stacks)
            level = [each for stack in reached for each in self._leave_new(stack, known, visited)]

    def _leave_new(
        self, stack: int, known: set[int], visited: set[Frame]
    ) -> Iterator[frozenset[int]]:
        """The stacks behind each frame of this stack that has not been visited."""
        while stack and stack not in known:
            known.add(stack)
            below, frame = self._stacks[stack]
            ends = self._distant_ends(frame)
            key = (frame[0], frame[1], -1, *frame[_PLACE_SIZE:]) if ends else frame
            if key not in visited:
                visited.add(key)
                yield self._leave(below, frame)
                for end in ends:
                    copies = end - _TEXT_LENGTH
                    yield self._leave(below, (frame[0], frame[1], copies, *frame[_PLACE_SIZE:]))
            stack = below

    def _distant_ends(self, frame: Frame) -> list[int]:
        """The numbers of copies at which a repetition changes, if it is in the middle of it.

        No short text leads there, so all copies in the middle are alike.
        """
        sequence, part, copies = frame[:_PLACE_SIZE]
        parts = self._sequences[sequence]
        if part == len(parts) or copies < _FIRST_MIDDLE_COPY:
            return []
        ends = {parts[part].low, parts[part].high or 0}
        if any(abs(end - copies) <= _TEXT_LENGTH for end in ends):
            return []
        return [end for end in ends if end > copies]

    def _leave(self, below: int, frame: Frame) -> frozenset[int]:
        """The stacks that follow a frame: a place to return to, or the rest of a literal."""
        if len(frame) == _PLACE_SIZE:
            return frozenset(self._settle(below, _as_place(frame)))
        sequence, part, copies, _ = frame
        last = len(self._sequences[sequence][part].sets) - 1
        return self._read(self._push(below, (sequence, part, copies, last)))

    def _explore(self, stacks: frozenset[int]) -> None:
        """Follow all short texts, as long as there is more than one run and they become more."""
        seen: dict[frozenset[int], int] = {}
        todo: deque[tuple[Runs, tuple[int, ...]]] = deque([(dict.fromkeys(stacks, 1), ())])
        while todo:
            runs, totals = todo.popleft()
            for readers, sign in self._classes(runs):
                following = self._follow(runs, readers)
                total = sum(following.values())
                if sign is not None and not totals and len(readers) > 1:
                    self._repeat(following, sign)
                grows = len(totals) < _PATIENCE or total > totals[-_PATIENCE]
                key = frozenset(following)
                if total > 1 and grows and len(totals) < _TEXT_LENGTH and seen.get(key, 0) < total:
                    seen[key] = total
                    todo.append((following, (*totals, total)))

    def _repeat(self, runs: Runs, sign: int) -> None:
        """Follow a text of one character only."""
        for _ in range(_REPETITION_LENGTH):
            readers = [stack for stack in runs if stack and self._reads(stack, sign)]
            runs = self._follow(runs, readers)
            if sum(runs.values()) <= 1:
                return

    def _follow(self, runs: Runs, readers: Iterable[int]) -> Runs:
        """The runs after a character that these stacks can read."""
        following: Runs = {}
        for stack in readers:
            for each in self._read(stack):
                following[each] = following.get(each, 0) + runs[stack]
        self._spend(len(following) + 1)
        if len(following) > _MAX_STACKS or sum(following.values()) > _MAX_RUNS:
            raise GrammarError(
                "a short text has too many parses; avoid repetitions of what can be empty, "
                "and alternatives that start alike"
            )
        return following

    def _classes(self, runs: Runs) -> list[tuple[list[int], int | None]]:
        """The sets of stacks that can read one character, and a sign (no letter or digit) of each.

        Without those where a single run goes on alone.
        """
        edges: list[tuple[int, int, int]] = []
        for stack in runs:
            if stack:
                edges += [
                    (point, kind, stack)
                    for low, high in self._characters(stack)
                    for point, kind in ((low, 1), (high + 1, 0))
                ]
        edges.sort()
        self._spend(len(edges))
        found: dict[frozenset[int], int | None] = {}
        active: set[int] = set()
        for at, (point, kind, stack) in enumerate(edges):
            (active.add if kind else active.discard)(stack)
            ends = at + 1 == len(edges) or edges[at + 1][0] != point
            if ends and sum(runs[each] for each in active) > 1:
                key, alnum = frozenset(active), chr(point).isalnum()
                if found.get(key) is None:
                    found[key] = None if alnum else point
        return [(list(stacks), sign) for stacks, sign in found.items()]

    def _characters(self, stack: int) -> tuple[tuple[int, int], ...]:
        sequence, part, _, at = self._stacks[stack][1]
        return self._sequences[sequence][part].sets[at]

    def _reads(self, stack: int, point: int) -> bool:
        return any(low <= point <= high for low, high in self._characters(stack))

    def _read(self, stack: int) -> frozenset[int]:
        """The stacks that follow when this one has read its character."""
        found = self._after.get(stack)
        if found is None:
            below, (sequence, part, copies, at) = self._stacks[stack]
            if at + 1 < len(self._sequences[sequence][part].sets):
                found = frozenset({self._push(below, (sequence, part, copies, at + 1))})
            else:
                found = frozenset(self._settle(below, self._next_copy(sequence, part, copies)))
            self._after[stack] = found
            self._spend(len(found))
        return found

    def _settle(self, below: int, place: Place) -> set[int]:
        """All stacks from a place on, each with a character to read on top, or empty."""
        found: set[int] = set()
        while True:
            ways, can_end = self._closure(place)
            for frames in ways:
                stack = below
                for frame in frames:
                    stack = self._push(stack, frame)
                found.add(stack)
            self._spend(len(ways))
            if len(found) > _MAX_STACKS:
                raise _too_wide()
            if not can_end:
                return found
            if not below:
                return found | {0}
            below, frame = self._stacks[below]
            sequence, part, copies = frame
            place = sequence, part, copies

    def _closure(self, start: Place) -> tuple[list[tuple[Frame, ...]], bool]:
        """The frames to push for each way to a character, and whether the sequence can end."""
        known = self._closures.get(start)
        if known is not None:
            return known
        ways: list[tuple[Frame, ...]] = []
        can_end = False
        seen: set[Step] = {((), start)}
        todo: list[Step] = [((), start)]
        while todo:
            frames, place = todo.pop()
            following: list[Step] = []
            if place[1] == len(self._sequences[place[0]]):
                can_end = can_end or not frames
                if frames:
                    following.append((frames[:-1], _as_place(frames[-1])))
            else:
                following = self._steps(frames, place, ways)
            new = [each for each in following if each not in seen]
            seen.update(new)
            todo += new
            if len(seen) > _MAX_CLOSURE:
                raise _too_wide()
        self._spend(len(seen))
        self._closures[start] = ways, can_end
        return ways, can_end

    def _steps(
        self, frames: tuple[Frame, ...], place: Place, ways: list[tuple[Frame, ...]]
    ) -> list[Step]:
        """What can follow a place without a character; adds the ways that read one to `ways`."""
        sequence, at, copies = place
        part = self._sequences[sequence][at]
        found: list[Step] = []
        if copies >= part.low:
            found.append((frames, (sequence, at + 1, 0)))
        if part.high is None or copies < part.high:
            if part.sets:
                ways.append((*frames, (*place, 0)))
            elif part.rule:
                back = self._next_copy(sequence, at, copies)
                ends = back[1] == len(self._sequences[sequence])
                left = frames if ends else (*frames, back)
                found += [(left, (inner, 0, 0)) for inner in self._rules[part.rule]]
        return found

    def _next_copy(self, sequence: int, at: int, copies: int) -> Place:
        """The place behind one more copy of a part."""
        part = self._sequences[sequence][at]
        if part.high is None:
            return sequence, at, min(copies + 1, part.low)
        return (sequence, at, copies + 1) if copies + 1 < part.high else (sequence, at + 1, 0)

    def _push(self, below: int, frame: Frame) -> int:
        number = self._numbers.setdefault((below, frame), len(self._stacks))
        if number == len(self._stacks):
            self._stacks.append((below, frame))
        return number

    def _spend(self, work: int) -> None:
        self._work += work
        if self._work > _MAX_WORK:
            raise GrammarError("it is too large or too ambiguous to be checked; simplify it")


def _as_place(frame: Frame) -> Place:
    sequence, part, copies = frame
    return sequence, part, copies


def _too_wide() -> GrammarError:
    return GrammarError(
        f"at one place more than {_MAX_STACKS} ways to go on are open; merge alternatives that "
        "start alike, and avoid repetitions of what can be empty"
    )
