"""One sampler chain per sequence, made of llama.cpp's own samplers in its usual order."""

import math
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from appliance.domain.messages import Sampling, TokenLikelihood
from plugins.providers.llama_cpp.native.bindings import Context, Model, NativeError
from plugins.providers.llama_cpp.sampling.logits import Candidates
from plugins.providers.llama_cpp.sampling.logprobs import Likelihoods
from plugins.providers.llama_cpp.sampling.vocabulary import vocabulary

GRAMMAR_ROOT = "root"
_REPEAT_WINDOW = 64
_ANSWER_WINDOW = 32768
_LARGEST_SEED = 0xFFFFFFFE


class Drawn(Struct, frozen=True):
    """A token, and how likely it was where that was asked for."""

    token: int
    likelihood: TokenLikelihood | None = None


class Sampler:
    """Draws the tokens of one sequence. Must be closed.

    A request's sampler is `Sampler(model, request.sampling, tokens, request.output.grammar)`
    of the request as the intake has prepared it: every output format is a grammar there.
    """

    def __init__(
        self, model: Model, sampling: Sampling, prompt: Sequence[int], grammar: str = ""
    ) -> None:
        """Raises NativeError if llama.cpp can't make the chain or refuses the grammar."""
        self._model = model
        self._lib: Any = model.lib
        self._grammar: Any = None
        self._candidates = Candidates(model) if grammar else None
        wanted = sampling.logprobs
        self._likelihoods = None if wanted is None else Likelihoods(model, wanted)
        params = self._lib.llama_sampler_chain_default_params()
        self._chain: Any = self._required(self._lib.llama_sampler_chain_init(params))
        try:
            self._fill(sampling, prompt, hidden=vocabulary(model).hidden if grammar else ())
            if grammar:
                self._grammar = made_grammar(model, grammar)
        except NativeError:
            self.close()
            raise

    def draw(self, context: Context, row: int) -> Drawn:
        """Draw from the logits that the last decode left for this row of its batch.

        The token counts as accepted. Raises NativeError if the grammar allows no token
        of this vocabulary: then only this sequence can't go on.
        """
        token = self._token(context, row)
        if self._likelihoods is None:
            return Drawn(token)
        return Drawn(token, self._likelihoods.of(token, context, row))

    def close(self) -> None:
        """Free the chain and all in it; calling it again does nothing."""
        for sampler in filter(None, (self._chain, self._grammar)):
            self._lib.llama_sampler_free(sampler)
        self._chain = self._grammar = None
        if self._likelihoods is not None:
            self._likelihoods.close()

    def _token(self, context: Context, row: int) -> int:
        if self._candidates is None:
            return int(self._lib.llama_sampler_sample(self._chain, context.handle, row))
        token = self._constrained(self._candidates, context, row)
        self._lib.llama_sampler_accept(self._chain, token)
        self._lib.llama_sampler_accept(self._grammar, token)
        return token

    def _constrained(self, candidates: Candidates, context: Context, row: int) -> int:
        """Most tokens need no look at the whole vocabulary: the grammar allows what is drawn."""
        candidates.fill(context, row)
        candidates.apply(self._chain)
        token = candidates.selected
        if token is not None and self._allows(candidates, token):
            return token
        candidates.fill(context, row)
        candidates.apply(self._grammar)
        candidates.apply(self._chain)
        token = candidates.selected
        if token is None:
            raise NativeError("the grammar allows no token of this model here")
        return token

    def _allows(self, candidates: Candidates, token: int) -> bool:
        return candidates.allows(self._grammar, token)

    def _fill(self, sampling: Sampling, prompt: Sequence[int], hidden: Sequence[int]) -> None:
        lib = self._lib
        self._add_bias(sampling, hidden)
        self._add_penalties(sampling, prompt)
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

    def _add_bias(self, sampling: Sampling, hidden: Sequence[int]) -> None:
        """The caller's biases; a grammar must not see tokens that the text won't show."""
        pairs = [*sampling.logit_bias, *((token, -math.inf) for token in hidden)]
        if pairs:
            lib, size = self._lib, self._model.vocabulary_size
            biases = (lib.llama_logit_bias * len(pairs))(*pairs)
            self._add(lib.llama_sampler_init_logit_bias(size, len(pairs), biases))

    def _add_penalties(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        """Repetition looks at the last tokens, prompt included; the others at the answer alone."""
        make, size = self._lib.llama_sampler_init_penalties, self._model.vocabulary_size
        if sampling.repeat_penalty != 1.0:
            part = make(size, _REPEAT_WINDOW, sampling.repeat_penalty, 0.0, 0.0)
            self._add(part)
            for token in prompt[-_REPEAT_WINDOW:]:
                self._lib.llama_sampler_accept(part, token)
        frequency, presence = sampling.frequency_penalty, sampling.presence_penalty
        if frequency or presence:
            self._add(make(size, _ANSWER_WINDOW, 1.0, frequency, presence))

    def _add(self, part: Any) -> None:
        self._lib.llama_sampler_chain_add(self._chain, self._required(part))

    @staticmethod
    def _required(part: Any) -> Any:
        if not part:
            raise NativeError("llama.cpp can't make a sampler")
        return part


def made_grammar(model: Model, grammar: str) -> Any:
    """llama.cpp's sampler of a GBNF grammar, to be freed by the caller.

    Only for grammars that `gbnf.check` has passed: others can end the process.
    Raises NativeError.
    """
    made = model.lib.llama_sampler_init_grammar(
        model.vocab, grammar.encode(), GRAMMAR_ROOT.encode()
    )
    if not made:
        raise NativeError("llama.cpp does not take this grammar")
    return made


def native_seed(seed: int) -> int:
    """Any integer as a seed of llama.cpp: 32 bits, without the one that means "random"."""
    return min(seed & 0xFFFFFFFF, _LARGEST_SEED)
