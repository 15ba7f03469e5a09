"""Log probabilities of sampled tokens and of their most likely alternatives."""

import math
from typing import Any

from appliance.domain.messages import Likelihood, TokenLikelihood
from plugins.providers.llama_cpp.native.bindings import Model, NativeError
from plugins.providers.llama_cpp.sampling.logits import LogitsArray


class LogprobComputer:
    """Logprobs of the model's own distribution: before biases, penalties and temperature.

    llama.cpp sums over the vocabulary: its `dist` sampler computes every token's probability, its
    `top_k` sampler moves the most likely tokens to the front. Must be closed.
    """

    def __init__(self, model: Model, top: int, logits: LogitsArray) -> None:
        """`top` is the number of most likely tokens to report. Raises NativeError."""
        self._model, self._top = model, top
        self._lib: Any = model.lib
        self._logits = logits
        self._softmax: Any = self._lib.llama_sampler_init_dist(0)
        self._sort: Any = self._lib.llama_sampler_init_top_k(max(1, top))
        if not (self._softmax and self._sort):
            self.close()
            raise NativeError("llama.cpp can't create a sampler")

    def compute(self, token: int) -> TokenLikelihood:
        """The likelihood of a token under the logits that were read last."""
        logits = self._logits
        logits.fill()
        logit = logits.logit(token)
        logits.apply(self._softmax)
        logits.apply(self._sort)
        best = logits.entry(0)
        total = best.logit - math.log(best.p)
        top = (logits.entry(at) for at in range(min(self._top, logits.size)))
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
        """Keeps rounding errors from lifting a probability above one."""
        data = self._model.piece(token) or self._model.piece(token, special=True)
        return Likelihood(data.decode("utf-8", "replace"), min(0.0, logprob), data)
