"""One sampler chain per sequence, in llama.cpp's usual order."""

from collections.abc import Sequence
from typing import Any

from appliance.domain.messages import Sampling
from plugins.providers.llama_cpp.native import Context, Model, NativeError

_PENALTY_WINDOW = 64
_LARGEST_SEED = 0xFFFFFFFE


class Sampler:
    """Draws the tokens of one sequence. Must be closed."""

    def __init__(self, model: Model, sampling: Sampling, prompt: Sequence[int]) -> None:
        """Raises NativeError if llama.cpp can't make the chain."""
        self._lib: Any = model.lib
        params = self._lib.llama_sampler_chain_default_params()
        self._chain: Any = self._required(self._lib.llama_sampler_chain_init(params))
        try:
            self._fill(model, sampling)
        except NativeError:
            self.close()
            raise
        if sampling.repeat_penalty != 1.0:
            self._remember(prompt[-_PENALTY_WINDOW:])

    def sample(self, context: Context, row: int) -> int:
        """Draw from the logits that the last decode left for this row of its batch."""
        return int(self._lib.llama_sampler_sample(self._chain, context.handle, row))

    def close(self) -> None:
        """Free the chain and all in it; calling it again does nothing."""
        if self._chain:
            self._lib.llama_sampler_free(self._chain)
            self._chain = None

    def _fill(self, model: Model, sampling: Sampling) -> None:
        lib = self._lib
        if sampling.repeat_penalty != 1.0:
            size, penalty = model.vocabulary_size, sampling.repeat_penalty
            self._add(lib.llama_sampler_init_penalties(size, _PENALTY_WINDOW, penalty, 0.0, 0.0))
        if sampling.temperature <= 0:
            self._add(lib.llama_sampler_init_greedy())
            return
        if sampling.top_k > 0:
            self._add(lib.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1:
            self._add(lib.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0:
            self._add(lib.llama_sampler_init_min_p(sampling.min_p, 1))
        self._add(lib.llama_sampler_init_temp(sampling.temperature))
        self._add(lib.llama_sampler_init_dist(native_seed(sampling.seed or 0)))

    def _add(self, part: Any) -> None:
        self._lib.llama_sampler_chain_add(self._chain, self._required(part))

    def _remember(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            self._lib.llama_sampler_accept(self._chain, token)

    @staticmethod
    def _required(part: Any) -> Any:
        if not part:
            raise NativeError("llama.cpp can't make a sampler")
        return part


def native_seed(seed: int) -> int:
    """Any integer as a seed of llama.cpp: 32 bits, without the one that means "random"."""
    return min(seed & 0xFFFFFFFF, _LARGEST_SEED)
