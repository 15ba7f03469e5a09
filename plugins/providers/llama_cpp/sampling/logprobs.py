"""How likely a drawn token was, and which others were likely in its place."""

import math
from typing import Any

from appliance.domain.messages import Likelihood, TokenLikelihood
from plugins.providers.llama_cpp.native.bindings import Context, Model, NativeError
from plugins.providers.llama_cpp.sampling.logits import Candidates


class Likelihoods:
    """Tells logprobs of the model's own distribution: before biases, penalties and temperature.

    The sums over the vocabulary are llama.cpp's: its `dist` sampler leaves every
    candidate's probability, its `top_k` brings the likeliest to the front. Must be closed.
    """

    def __init__(self, model: Model, top: int) -> None:
        """`top` likeliest tokens are told with each. Raises NativeError."""
        self._model, self._top = model, top
        self._lib: Any = model.lib
        self._candidates = Candidates(model)
        self._softmax: Any = self._lib.llama_sampler_init_dist(0)
        self._sort: Any = self._lib.llama_sampler_init_top_k(max(1, top))
        if not (self._softmax and self._sort):
            self.close()
            raise NativeError("llama.cpp can't make a sampler")

    def of(self, token: int, context: Context, row: int) -> TokenLikelihood:
        """The likelihood of a token under the logits that it was drawn from."""
        candidates = self._candidates
        candidates.fill(context, row)
        logit = candidates.logit(token)
        candidates.apply(self._softmax)
        candidates.apply(self._sort)
        best = candidates.entry(0)
        total = best.logit - math.log(best.p)
        top = (candidates.entry(at) for at in range(min(self._top, candidates.size)))
        return TokenLikelihood(
            self._likelihood(token, logit - total),
            tuple(self._likelihood(each.id, each.logit - total) for each in top),
        )

    def close(self) -> None:
        """Free the samplers; calling it again does nothing."""
        for sampler in filter(None, (self._softmax, self._sort)):
            self._lib.llama_sampler_free(sampler)
        self._softmax = self._sort = None

    def _likelihood(self, token: int, logprob: float) -> Likelihood:
        """Rounding may not lift a probability above one."""
        data = self._model.piece(token) or self._model.piece(token, special=True)
        return Likelihood(data.decode("utf-8", "replace"), min(0.0, logprob), data)
