"""Speculative decoding: several tokens of one answer in a step, where that is faster.

Draft tokens are computed as rows of the same batch. The answer's own sampler then samples at
each row as if it had had a step of its own; the first token that differs from the draft ends
it. A draft therefore changes how fast an answer is generated, not what it says: only the
arithmetic of several rows may differ from that of one in the last bits, as it does in any batch.
"""

from collections.abc import Sequence

from msgspec import Struct

from plugins.providers.llama_cpp.speculation.drafter import Drafter
from plugins.providers.llama_cpp.speculation.step_costs import MEASURED_ROWS, StepCosts

MAX_DRAFT_TOKENS = MEASURED_ROWS[-1] - 1
# The expected gain of a draft must exceed its cost by this factor, since both are estimates.
_MIN_GAIN = 1.05
# By how much the draft of one answer may lengthen a step that others wait for too.
_MAX_SLOWDOWN_OF_OTHERS = 1.1


class DraftInput(Struct, frozen=True):
    """An answer to draft for: its tokens so far, and how many draft tokens fit in its cells."""

    drafter: Drafter | None
    tokens: list[int]
    max_tokens: int


class Speculation:
    """Drafts for each step. Without usable `costs` it never drafts."""

    def __init__(self, costs: StepCosts) -> None:
        self._costs = costs

    @property
    def enabled(self) -> bool:
        return self._costs.usable

    def draft(
        self, inputs: Sequence[DraftInput], *, prefill_rows: int, spare_rows: int
    ) -> list[list[int]]:
        """The draft tokens of each decoding answer; `spare_rows` are free for all drafts."""
        rows, alone = len(inputs) + prefill_rows, len(inputs) == 1 and not prefill_rows
        drafts: list[list[int]] = []
        for each in inputs:
            limit = min(spare_rows // len(inputs), MAX_DRAFT_TOKENS, each.max_tokens)
            drafts.append(self._draft_one(each, rows, limit, alone=alone))
            rows += len(drafts[-1])
        return drafts

    def _draft_one(self, each: DraftInput, rows: int, limit: int, *, alone: bool) -> list[int]:
        if each.drafter is None or limit < 1:
            return []
        accepted = each.drafter.expect_accepted(limit)
        length = best_draft_length(self._costs, rows, accepted, alone=alone)
        return each.drafter.draft(each.tokens, length) if length else []


def best_draft_length(
    costs: StepCosts, rows: int, accepted: Sequence[float], *, alone: bool
) -> int:
    """How many tokens to draft beside `rows` other rows of the step; 0 if none pays.

    `accepted` holds the expected number of accepted tokens for drafts of 1, 2, ... tokens.
    Without a draft each row gives one token. An answer that is not `alone` may hardly slow
    the others down.
    """
    plain_time = costs.step_time(rows)
    best_speed, length = _MIN_GAIN * rows / plain_time, 0
    for count, gained in enumerate(accepted, 1):
        step_time = costs.step_time(rows + count)
        speed = (rows + gained) / step_time
        if speed > best_speed and (alone or step_time <= _MAX_SLOWDOWN_OF_OTHERS * plain_time):
            best_speed, length = speed, count
    return length
