"""Which tokens top-k, top-p and min-p keep, decided from the likeliest tokens alone.

To apply a grammar to a whole vocabulary can take tenths of a second, to its likeliest tokens a
millisecond. Greedy, top-k, top-p and min-p each keep a beginning of the allowed tokens in the
order of their logits. If this beginning certainly ends within the tokens that were checked, they
give exactly the distribution of a grammar that is applied to the whole vocabulary first.

Top-k and greedy are certain once enough allowed tokens are known, min-p is if the lowest checked
token is below its threshold. Top-p depends on the sum over all allowed tokens, which has bounds:
no unchecked token is allowed, or as many as top-k can keep are, each as likely as the lowest
checked one. It is certain if it ends at the same token for both.
"""

import math
from collections.abc import Sequence
from itertools import accumulate

from msgspec import Struct


class Truncation(Struct, frozen=True):
    """The parameters that cut off unlikely tokens, in the order in which they are applied.

    `greedy` keeps the likeliest token only. `top_k` 0, `top_p` 1 and `min_p` 0 cut off nothing.
    """

    greedy: bool
    top_k: int
    top_p: float
    min_p: float

    @property
    def keeps_all(self) -> bool:
        return not self.greedy and self.top_k <= 0 and self.top_p >= 1 and self.min_p <= 0

    def ends_within(self, allowed: Sequence[float], lowest: float, unchecked: int) -> bool:
        """Whether all tokens that are kept are certainly among the checked ones.

        `allowed` are the logits of the allowed checked tokens, descending; `lowest` is the lowest
        logit of all checked ones, which none of the `unchecked` tokens exceeds.
        """
        if not (unchecked and allowed):
            return not unchecked
        if self.greedy or 0 < self.top_k <= len(allowed):
            return True
        if self.top_k > 0:
            unchecked = min(unchecked, self.top_k - len(allowed))
        weights = [math.exp(logit - allowed[0]) for logit in allowed]
        lowest_weight = math.exp(lowest - allowed[0])
        known = sum(weights)
        first = self._end(weights, lowest_weight, known)
        last = self._end(weights, lowest_weight, known + unchecked * lowest_weight)
        return first == last <= len(allowed)

    def _end(self, weights: Sequence[float], lowest: float, total: float) -> int:
        """How many tokens min-p and top-p keep; more than there are weights if that is unknown."""
        end = len(weights) + 1
        if self.min_p > 0 and lowest < self.min_p:
            end = sum(weight >= self.min_p for weight in weights)
        if self.top_p < 1:
            sums, limit = accumulate(weights), self.top_p * total
            end = min(end, next((at for at, each in enumerate(sums, 1) if each >= limit), end))
        return end
