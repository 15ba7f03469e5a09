"""Samples the tokens of a sequence that follows a grammar.

The distribution is that of a grammar which forbids tokens of the whole vocabulary before any are
cut off or chosen. Two ways to get it are much cheaper than to do so. If no token is cut off, the
first sample without the grammar is right if the grammar allows it, as its probability among all
tokens is proportional to that among the allowed ones. Else the grammar is applied to the likeliest
tokens, which are enough if the tokens that are kept certainly are among them, see truncation.py.
"""

import math
from collections.abc import Sequence
from typing import Any

from appliance.domain.messages import Sampling
from plugins.providers.llama_cpp.native.bindings import Model, NativeError
from plugins.providers.llama_cpp.sampling.chain import SamplerChain, fill_in_defaults
from plugins.providers.llama_cpp.sampling.logits import LogitsArray
from plugins.providers.llama_cpp.sampling.truncation import Truncation
from plugins.providers.llama_cpp.sampling.vocabulary import load_vocabulary

GRAMMAR_ROOT = "root"
# More would cost much more: llama.cpp sorts up to 128 by another algorithm.
_LIKELIEST = 128


class GrammarSampler:
    """Samples from the `logits` that were read last. Must be closed.

    May be used by one thread at a time.
    """

    def __init__(
        self,
        model: Model,
        sampling: Sampling,
        prompt: Sequence[int],
        grammar: str,
        logits: LogitsArray,
    ) -> None:
        """Raises NativeError if llama.cpp can't create the chains or rejects the grammar."""
        self._lib: Any = model.lib
        self._logits = logits
        self._grammar: Any = create_grammar_sampler(model, grammar)
        self._chains: list[SamplerChain] = []
        params = fill_in_defaults(sampling)
        self._truncation = Truncation(
            params.temperature <= 0, params.top_k, params.top_p, params.min_p
        )
        try:
            self._adjust, self._likeliest, self._select = (self._add_chain(model) for _ in range(3))
            self._adjust.add_adjustments(sampling, prompt, load_vocabulary(model).hidden)
            self._likeliest.add_top_k(_LIKELIEST)
            self._select.add_selection(sampling)
        except NativeError:
            self.close()
            raise

    def sample_likeliest(self) -> int | None:
        """A token, or None if only the whole vocabulary can tell. Usually takes 0.2 ms."""
        logits = self._adjusted_logits()
        if self._truncation.keeps_all:
            logits.apply(self._select.handle)
            token = logits.selected
            allowed = token is not None and logits.allows(self._grammar, token)
            return token if allowed else None
        logits.apply(self._likeliest.handle)
        lowest, unchecked = logits.entry(logits.size - 1).logit, logits.total - logits.size
        logits.apply(self._grammar)
        allowed = [value for value in logits.values if value > -math.inf]
        if not self._truncation.ends_within(allowed, lowest, unchecked):
            return None
        return self._choose(logits)

    def sample_whole(self) -> int:
        """A token. Takes up to some tenths of a second, in which Python's lock is free.

        Raises NativeError if the grammar allows no token.
        """
        logits = self._adjusted_logits()
        logits.apply(self._grammar)
        token = self._choose(logits)
        if token is None:
            raise NativeError("the grammar allows no token of this model at this point")
        return token

    def accept(self, token: int) -> None:
        for chain in (self._adjust, self._select):
            chain.accept(token)
        self._lib.llama_sampler_accept(self._grammar, token)

    def close(self) -> None:
        """Free everything; calling it again does nothing."""
        for chain in self._chains:
            chain.close()
        if self._grammar:
            self._lib.llama_sampler_free(self._grammar)
        self._grammar = None

    def _add_chain(self, model: Model) -> SamplerChain:
        self._chains.append(SamplerChain(model))
        return self._chains[-1]

    def _adjusted_logits(self) -> LogitsArray:
        self._logits.fill()
        self._logits.apply(self._adjust.handle)
        return self._logits

    def _choose(self, logits: LogitsArray) -> int | None:
        logits.mark_unsorted()
        logits.apply(self._select.handle)
        return logits.selected


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
