"""Chains of llama.cpp's own samplers, in its usual order."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from appliance.domain.messages import Sampling
from plugins.providers.llama_cpp.native.bindings import Model, NativeError

_REPEAT_WINDOW = 64
_ANSWER_WINDOW = 32768
_LARGEST_SEED = 0xFFFFFFFE


class SamplerParams(Struct, frozen=True):
    """What a chain is built from: what the caller gave, and this engine's defaults for the rest.

    `min_p` cuts off the tail of improbable tokens, which for a small model is noise.
    """

    temperature: float = 0.6
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    seed: int = 0


def fill_in_defaults(sampling: Sampling) -> SamplerParams:
    """The parameters of a chain for this request."""
    values = msgspec.structs.asdict(sampling)
    fields = SamplerParams.__struct_fields__
    return SamplerParams(**{name: values[name] for name in fields if values[name] is not None})


class SamplerChain:
    """A chain, empty at first. Must be closed."""

    def __init__(self, model: Model) -> None:
        """Raises NativeError, as all methods do that add samplers."""
        self._model = model
        self._lib: Any = model.lib
        params = self._lib.llama_sampler_chain_default_params()
        self.handle: Any = check_created(self._lib.llama_sampler_chain_init(params))

    def close(self) -> None:
        """Free the chain and all in it; calling it again does nothing."""
        if self.handle:
            self._lib.llama_sampler_free(self.handle)
        self.handle = None

    def accept(self, token: int) -> None:
        self._lib.llama_sampler_accept(self.handle, token)

    def add_adjustments(
        self, sampling: Sampling, prompt: Sequence[int], forbidden: Sequence[int] = ()
    ) -> None:
        """Biases and penalties, each of which changes one logit; `forbidden` ones become -inf."""
        pairs = [*sampling.logit_bias, *((token, -math.inf) for token in forbidden)]
        if pairs:
            lib, size = self._lib, self._model.vocabulary_size
            biases = (lib.llama_logit_bias * len(pairs))(*pairs)
            self.add(lib.llama_sampler_init_logit_bias(size, len(pairs), biases))
        self._add_penalties(fill_in_defaults(sampling), prompt)

    def add_selection(self, sampling: Sampling) -> None:
        """What cuts off unlikely tokens and selects one of the others."""
        lib, params = self._lib, fill_in_defaults(sampling)
        if params.temperature <= 0:
            self.add(lib.llama_sampler_init_greedy())
            return
        if params.top_k > 0:
            self.add_top_k(params.top_k)
        if params.top_p < 1:
            self.add(lib.llama_sampler_init_top_p(params.top_p, 1))
        if params.min_p > 0:
            self.add(lib.llama_sampler_init_min_p(params.min_p, 1))
        self.add(lib.llama_sampler_init_temp(params.temperature))
        self.add(lib.llama_sampler_init_dist(native_seed(params.seed)))

    def add_top_k(self, count: int) -> None:
        self.add(self._lib.llama_sampler_init_top_k(count))

    def add(self, sampler: Any) -> None:
        """The chain frees the sampler."""
        self._lib.llama_sampler_chain_add(self.handle, check_created(sampler))

    def _add_penalties(self, params: SamplerParams, prompt: Sequence[int]) -> None:
        """The repeat penalty counts tokens of the prompt too, the others the answer only."""
        create, size = self._lib.llama_sampler_init_penalties, self._model.vocabulary_size
        if params.repeat_penalty != 1.0:
            sampler = create(size, _REPEAT_WINDOW, params.repeat_penalty, 0.0, 0.0)
            self.add(sampler)
            for token in prompt[-_REPEAT_WINDOW:]:
                self._lib.llama_sampler_accept(sampler, token)
        frequency, presence = params.frequency_penalty, params.presence_penalty
        if frequency or presence:
            self.add(create(size, _ANSWER_WINDOW, 1.0, frequency, presence))


def check_created(sampler: Any) -> Any:
    """Raises NativeError if there is none."""
    if not sampler:
        raise NativeError("llama.cpp can't create a sampler")
    return sampler


def native_seed(seed: int) -> int:
    """Any integer as a seed of llama.cpp: 32 bits, without the value that means "random"."""
    return min(seed & 0xFFFFFFFF, _LARGEST_SEED)
