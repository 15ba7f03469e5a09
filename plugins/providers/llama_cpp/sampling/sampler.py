"""Samples the tokens of one sequence: at once, or in a worker thread if a grammar takes long."""

import time
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from appliance.domain.messages import Sampling, TokenLikelihood
from plugins.providers.llama_cpp.native.bindings import Context, Model, NativeError
from plugins.providers.llama_cpp.sampling.chain import SamplerChain
from plugins.providers.llama_cpp.sampling.grammar_sampler import GrammarSampler
from plugins.providers.llama_cpp.sampling.logits import LogitsArray
from plugins.providers.llama_cpp.sampling.logprobs import LogprobComputer

# What the decode loop may spend on a token of a grammar, and how long it may wait for a worker.
_INLINE_CPU_S = 0.002
_QUICK_CPU_S = 0.01
# An answer that takes longer for one token is ended.
_MAX_TOKEN_CPU_S = 2.0


class SampledToken(Struct, frozen=True):
    """A token, and its likelihood if the request asks for logprobs."""

    token: int
    likelihood: TokenLikelihood | None = None


class Sampler:
    """Must be closed. `grammar` is that of the prepared request, which has every output format
    as a grammar.

    `slow`: the last token that `finish_sample` sampled took so long that nobody should wait for
    the next.
    """

    def __init__(
        self, model: Model, sampling: Sampling, prompt: Sequence[int], grammar: str = ""
    ) -> None:
        """Raises NativeError if llama.cpp can't create the chain or rejects the grammar."""
        self._lib: Any = model.lib
        self.slow = False
        # The first token tells what the likeliest tokens cost.
        self._defers = True
        top = sampling.logprobs
        self._logits = LogitsArray(model) if grammar or top is not None else None
        self._logprobs: LogprobComputer | None = None
        self._grammar: GrammarSampler | None = None
        self._chain = SamplerChain(model)
        try:
            if self._logits is not None and top is not None:
                self._logprobs = LogprobComputer(model, top, self._logits)
            if self._logits is not None and grammar:
                self._grammar = GrammarSampler(model, sampling, prompt, grammar, self._logits)
            else:
                self._chain.add_adjustments(sampling, prompt)
                self._chain.add_selection(sampling)
        except NativeError:
            self.close()
            raise

    def sample(self, context: Context, row: int) -> SampledToken | None:
        """Sample from the logits that the last decode computed for this row of its batch.

        Accepts the token. None if a grammar may take long: then `finish_sample` has to be called.
        """
        if self._logits is not None:
            self._logits.read(context, row)
        if self._grammar is None:
            chain = self._chain.handle
            return self._result(int(self._lib.llama_sampler_sample(chain, context.handle, row)))
        token = None if self._defers else self._sample_likeliest(self._grammar)
        return None if token is None else self._accept(self._grammar, token)

    def finish_sample(self) -> SampledToken:
        """Sample from the logits that `sample` copied; any thread may do so.

        Raises NativeError if the grammar allows no token of this vocabulary, or took too long;
        then only this sequence can't continue.
        """
        grammar = self._grammar
        if grammar is None:
            raise NativeError("there is no sample to finish")
        started = time.thread_time()
        token = self._sample_likeliest(grammar) if self._defers else None
        if token is None:
            token = grammar.sample_whole()
        sampled = self._accept(grammar, token)
        seconds = time.thread_time() - started
        self.slow = seconds > _QUICK_CPU_S
        if seconds > _MAX_TOKEN_CPU_S:
            raise NativeError(
                f"the output format took over {_MAX_TOKEN_CPU_S:g} s for one token; simplify it"
            )
        return sampled

    def close(self) -> None:
        """Free everything; calling it again does nothing."""
        for each in (self._chain, self._grammar, self._logprobs):
            if each is not None:
                each.close()

    def _sample_likeliest(self, grammar: GrammarSampler) -> int | None:
        started = time.thread_time()
        token = grammar.sample_likeliest()
        self._defers = time.thread_time() - started > _INLINE_CPU_S
        return token

    def _accept(self, grammar: GrammarSampler, token: int) -> SampledToken:
        grammar.accept(token)
        return self._result(token)

    def _result(self, token: int) -> SampledToken:
        likelihood = None if self._logprobs is None else self._logprobs.compute(token)
        return SampledToken(token, likelihood)
