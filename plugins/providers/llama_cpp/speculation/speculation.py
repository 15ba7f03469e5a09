"""Speculative decoding: several tokens of one answer in a step, where that is faster.

Drafted tokens are computed as rows of the same batch and then drawn one after another by
the answer's own sampler, as if each had had a step of its own; the first one that is drawn
otherwise ends it. So a draft changes how fast an answer is written and not what it says:
only the arithmetic of several rows may differ from that of one in the last bits, as it
does between neighbours of any batch.
"""

from collections.abc import Sequence as Values

from plugins.providers.llama_cpp.engine.sequences import Sequence
from plugins.providers.llama_cpp.speculation.step_costs import MEASURED_ROWS, StepCosts

MOST_DRAFTED = MEASURED_ROWS[-1] - 1
# A draft has to promise this much more than it costs: promises are estimates.
_CLEARLY = 1.05
# By how much a draft of one answer may lengthen a step that others wait for too.
_PATIENCE = 1.1


def worthwhile(costs: StepCosts, rows: int, expected: Values[float], *, alone: bool) -> int:
    """How many tokens to draft beside `rows` other rows of the step; 0 where none pays.

    `expected` says how many of so many drafted tokens will come. Without a draft each
    row gives one token, and is that row's only hope; who is not `alone` may not keep
    others waiting.
    """
    plain = costs.of(rows)
    best, drafted = _CLEARLY * rows / plain, 0
    for count, gained in enumerate(expected, 1):
        taken = costs.of(rows + count)
        if (rows + gained) / taken > best and (alone or taken <= _PATIENCE * plain):
            best, drafted = (rows + gained) / taken, count
    return drafted


class Speculation:
    """Gives each step's drafts. Without useful `costs` it never drafts."""

    def __init__(self, costs: StepCosts) -> None:
        self._costs = costs

    @property
    def possible(self) -> bool:
        return self._costs.useful

    def draft(self, decoding: list[Sequence], *, reading: int, spare: int) -> None:
        """Set each answer's draft; `reading` rows are prompts', `spare` ones are nobody's."""
        rows, alone = len(decoding) + reading, len(decoding) == 1 and not reading
        for sequence in decoding:
            most = min(spare // len(decoding), MOST_DRAFTED, sequence.left - 1)
            sequence.draft = self._drafted(sequence, rows, most, alone=alone)
            rows += len(sequence.draft)

    def _drafted(self, sequence: Sequence, rows: int, most: int, *, alone: bool) -> list[int]:
        drafter = sequence.drafter
        if drafter is None or most < 1:
            return []
        count = worthwhile(self._costs, rows, drafter.expected(most), alone=alone)
        return drafter.draft(sequence.tokens, count) if count else []
