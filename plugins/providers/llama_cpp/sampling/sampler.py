"""One sampler chain per sequence, of llama.cpp's own samplers in its usual order."""

import math
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from appliance.domain.messages import Sampling, TokenLikelihood
from plugins.providers.llama_cpp.native.bindings import Context, Model, NativeError
from plugins.providers.llama_cpp.sampling.logits import LogitsArray
from plugins.providers.llama_cpp.sampling.logprobs import LogprobComputer
from plugins.providers.llama_cpp.sampling.vocabulary import load_vocabulary

GRAMMAR_ROOT = "root"
# An answer that takes longer is ended: all others wait meanwhile.
_MAX_TOKEN_CPU_S = 2.0
_REPEAT_WINDOW = 64
_ANSWER_WINDOW = 32768
_LARGEST_SEED = 0xFFFFFFFE


class SampledToken(Struct, frozen=True):
    """A token, and its likelihood if the request asks for logprobs."""

    token: int
    likelihood: TokenLikelihood | None = None


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


class Sampler:
    """Samples the tokens of one sequence. Must be closed.

    `grammar` is that of the prepared request, which has every output format as a grammar.
    """

    def __init__(
        self, model: Model, sampling: Sampling, prompt: Sequence[int], grammar: str = ""
    ) -> None:
        """Raises NativeError if llama.cpp can't create the chain or rejects the grammar."""
        self._model = model
        self._lib: Any = model.lib
        self._grammar: Any = None
        self._logits = LogitsArray(model) if grammar else None
        top = sampling.logprobs
        self._logprobs = None if top is None else LogprobComputer(model, top)
        params = self._lib.llama_sampler_chain_default_params()
        self._chain: Any = _check_created(self._lib.llama_sampler_chain_init(params))
        try:
            self._fill_chain(
                sampling, prompt, hidden=load_vocabulary(model).hidden if grammar else ()
            )
            if grammar:
                self._grammar = create_grammar_sampler(model, grammar)
        except NativeError:
            self.close()
            raise

    def sample(self, context: Context, row: int) -> SampledToken:
        """Sample from the logits that the last decode computed for this row of its batch.

        Accepts the token. Raises NativeError if the grammar allows no token of this vocabulary;
        then only this sequence can't continue.
        """
        token = self._sample_token(context, row)
        if self._logprobs is None:
            return SampledToken(token)
        return SampledToken(token, self._logprobs.compute(token, context, row))

    def close(self) -> None:
        """Free the chain and all in it; calling it again does nothing."""
        for sampler in filter(None, (self._chain, self._grammar)):
            self._lib.llama_sampler_free(sampler)
        self._chain = self._grammar = None
        if self._logprobs is not None:
            self._logprobs.close()

    def _sample_token(self, context: Context, row: int) -> int:
        if self._logits is None:
            return int(self._lib.llama_sampler_sample(self._chain, context.handle, row))
        started = time.thread_time()
        token = self._sample_constrained(self._logits, context, row)
        self._lib.llama_sampler_accept(self._chain, token)
        self._lib.llama_sampler_accept(self._grammar, token)
        if time.thread_time() - started > _MAX_TOKEN_CPU_S:
            raise NativeError(
                f"the output format took over {_MAX_TOKEN_CPU_S:g} s for one token; simplify it"
            )
        return token

    def _sample_constrained(self, logits: LogitsArray, context: Context, row: int) -> int:
        """Applies the grammar to the whole vocabulary only if it forbids the first sample."""
        logits.fill(context, row)
        logits.apply(self._chain)
        token = logits.selected
        if token is not None and logits.allows(self._grammar, token):
            return token
        logits.fill(context, row)
        logits.apply(self._grammar)
        logits.apply(self._chain)
        token = logits.selected
        if token is None:
            raise NativeError("the grammar allows no token of this model at this point")
        return token

    def _fill_chain(self, sampling: Sampling, prompt: Sequence[int], hidden: Sequence[int]) -> None:
        lib, params = self._lib, fill_in_defaults(sampling)
        self._add_bias(sampling, hidden)
        self._add_penalties(params, prompt)
        if params.temperature <= 0:
            self._add(lib.llama_sampler_init_greedy())
            return
        if params.top_k > 0:
            self._add(lib.llama_sampler_init_top_k(params.top_k))
        if params.top_p < 1:
            self._add(lib.llama_sampler_init_top_p(params.top_p, 1))
        if params.min_p > 0:
            self._add(lib.llama_sampler_init_min_p(params.min_p, 1))
        self._add(lib.llama_sampler_init_temp(params.temperature))
        self._add(lib.llama_sampler_init_dist(native_seed(params.seed)))

    def _add_bias(self, sampling: Sampling, hidden: Sequence[int]) -> None:
        """The request's biases; forbids tokens that the text does not show, for a grammar."""
        pairs = [*sampling.logit_bias, *((token, -math.inf) for token in hidden)]
        if pairs:
            lib, size = self._lib, self._model.vocabulary_size
            biases = (lib.llama_logit_bias * len(pairs))(*pairs)
            self._add(lib.llama_sampler_init_logit_bias(size, len(pairs), biases))

    def _add_penalties(self, params: SamplerParams, prompt: Sequence[int]) -> None:
        """The repeat penalty counts tokens of the prompt too, the others the answer only."""
        create, size = self._lib.llama_sampler_init_penalties, self._model.vocabulary_size
        if params.repeat_penalty != 1.0:
            sampler = create(size, _REPEAT_WINDOW, params.repeat_penalty, 0.0, 0.0)
            self._add(sampler)
            for token in prompt[-_REPEAT_WINDOW:]:
                self._lib.llama_sampler_accept(sampler, token)
        frequency, presence = params.frequency_penalty, params.presence_penalty
        if frequency or presence:
            self._add(create(size, _ANSWER_WINDOW, 1.0, frequency, presence))

    def _add(self, sampler: Any) -> None:
        self._lib.llama_sampler_chain_add(self._chain, _check_created(sampler))


def _check_created(sampler: Any) -> Any:
    if not sampler:
        raise NativeError("llama.cpp can't create a sampler")
    return sampler


def create_grammar_sampler(model: Model, grammar: str) -> Any:
    """llama.cpp's sampler of a GBNF grammar, to be freed by the caller.

    Only for grammars that the safety check has accepted: others can abort the process.
    Raises NativeError.
    """
    sampler = model.lib.llama_sampler_init_grammar(
        model.vocab, grammar.encode(), GRAMMAR_ROOT.encode()
    )
    if not sampler:
        raise NativeError("llama.cpp rejects this grammar")
    return sampler


def native_seed(seed: int) -> int:
    """Any integer as a seed of llama.cpp: 32 bits, without the value that means "random"."""
    return min(seed & 0xFFFFFFFF, _LARGEST_SEED)
