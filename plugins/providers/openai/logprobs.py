"""Logarithms of probabilities as OpenAI's API tells them, in the domain's form."""

from appliance.domain.messages import Likelihood, TokenLikelihood
from plugins.providers.openai.wire import ChosenToken, Logprobs, TokenProbability


def likelihoods(found: Logprobs) -> tuple[TokenLikelihood, ...]:
    """Of a chat's pieces, or of the parallel lists of raw completions."""
    if found.content is not None:
        return tuple(_of_chat(token) for token in found.content)
    tokens = found.tokens or []
    values = found.token_logprobs or []
    tops = found.top_logprobs or [None] * len(tokens)
    return tuple(
        TokenLikelihood(_plain(token, value), _plain_top(top))
        for token, value, top in zip(tokens, values, tops, strict=False)
        if value is not None
    )


def _of_chat(token: ChosenToken) -> TokenLikelihood:
    drawn = Likelihood(token.token, token.logprob, _bytes(token))
    top = (Likelihood(o.token, o.logprob, _bytes(o)) for o in token.top_logprobs or ())
    return TokenLikelihood(drawn, tuple(top))


def _bytes(token: ChosenToken | TokenProbability) -> bytes:
    """The token's bytes; its text's where they are not told."""
    if token.bytes is not None and all(0 <= byte < 256 for byte in token.bytes):  # noqa: PLR2004
        return bytes(token.bytes)
    return token.token.encode()


def _plain(token: str, logprob: float) -> Likelihood:
    return Likelihood(token, logprob, token.encode())


def _plain_top(top: dict[str, float] | None) -> tuple[Likelihood, ...]:
    pairs = sorted((top or {}).items(), key=lambda pair: -pair[1])
    return tuple(_plain(token, value) for token, value in pairs)
