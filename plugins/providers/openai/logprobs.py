"""Converts the log probabilities of OpenAI's API to the domain's."""

from appliance.domain.messages import Likelihood, TokenLikelihood
from plugins.providers.openai.wire import Logprobs, SampledToken, TopToken


def convert_logprobs(logprobs: Logprobs) -> tuple[TokenLikelihood, ...]:
    """From a chat completion's objects or a raw completion's parallel lists."""
    if logprobs.content is not None:
        return tuple(_convert_chat_token(token) for token in logprobs.content)
    tokens = logprobs.tokens or []
    values = logprobs.token_logprobs or []
    tops = logprobs.top_logprobs or [None] * len(tokens)
    return tuple(
        TokenLikelihood(_likelihood(token, value), _top_likelihoods(top))
        for token, value, top in zip(tokens, values, tops, strict=False)
        if value is not None
    )


def _convert_chat_token(token: SampledToken) -> TokenLikelihood:
    sampled = Likelihood(token.token, token.logprob, _bytes(token))
    top = (
        Likelihood(other.token, other.logprob, _bytes(other)) for other in token.top_logprobs or ()
    )
    return TokenLikelihood(sampled, tuple(top))


def _bytes(token: SampledToken | TopToken) -> bytes:
    """The token's bytes, or its text's if it has none."""
    if token.bytes is not None and all(0 <= byte < 256 for byte in token.bytes):  # noqa: PLR2004
        return bytes(token.bytes)
    return token.token.encode()


def _likelihood(token: str, logprob: float) -> Likelihood:
    return Likelihood(token, logprob, token.encode())


def _top_likelihoods(top: dict[str, float] | None) -> tuple[Likelihood, ...]:
    pairs = sorted((top or {}).items(), key=lambda pair: -pair[1])
    return tuple(_likelihood(token, value) for token, value in pairs)
