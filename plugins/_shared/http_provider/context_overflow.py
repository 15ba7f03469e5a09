"""Recognizes that a prompt is too long for a model, from a provider's error.

Few providers have a code for it, so their wordings are matched: those of OpenAI, Anthropic, Gemini,
Mistral, xAI, Bedrock, vLLM, TGI, llama-server, Ollama and LM Studio.
"""

import re

from plugins._shared.http_provider.error_body import ProviderErrorBody

_KINDS = ("context_length_exceeded", "exceed_context_size_error")
_WORDINGS = re.compile(
    r"context[ _](?:length|window|size|limit)|"
    r"(?:prompt|input) is too long|prompt too long|maximum (?:context|prompt length|model length)|"
    r"input token count .* exceeds|input tokens exceed|input length .* exceeds?|"
    r"exceeds? the (?:available|maximum) .*(?:context|tokens)|"
    r"reduce the length of the (?:messages|prompt|input)|max_new_tokens. must be <=",
    re.IGNORECASE,
)
_COUNTS = tuple(
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        # Anthropic
        r"limit: (?P<prompt>\d+) \+ (?P<answer>\d+) > (?P<context>\d+)",
        r"too long: (?P<prompt>\d+) tokens > (?P<context>\d+)",
        # OpenAI, OpenRouter, vLLM
        r"context length is (?P<context>\d+).*\((?P<prompt>\d+) (?:in|of) [^,()]*, "
        r"(?:\d+ of tool input, )?(?P<answer>\d+) in the ",
        # vLLM
        r"context length is (?P<context>\d+).* has (?P<prompt>\d+) input tokens "
        r"\((?P<answer>\d+) >",
        # TGI
        r"must be <= (?P<context>\d+)\. Given: (?P<prompt>\d+) .* and (?P<answer>\d+) ",
    )
)
_NUMBER = re.compile(r"\b\d{2,}\b")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}\b)")


def is_context_overflow(error: ProviderErrorBody) -> bool:
    """Whether the provider says that prompt, or prompt and answer, don't fit the context."""
    return error.has_kind(*_KINDS) or bool(_WORDINGS.search(error.message))


def parse_token_counts(error: ProviderErrorBody) -> dict[str, int]:
    """{prompt_tokens, context_tokens}, as far as the error tells them.

    With `max_tokens` if the prompt alone would fit, but not together with so long an answer.
    """
    text = _THOUSANDS.sub("", error.message)
    for pattern in _COUNTS:
        if found := pattern.search(text):
            counts = {name: int(value) for name, value in found.groupdict().items()}
            answer = {"max_tokens": counts["answer"]} if "answer" in counts else {}
            prompt, context = counts["prompt"], counts["context"]
            return {"prompt_tokens": prompt, "context_tokens": context} | answer
    numbers = set(error.token_counts or map(int, _NUMBER.findall(text)))
    if len(numbers) != 2:  # noqa: PLR2004
        return {}
    return {"prompt_tokens": max(numbers), "context_tokens": min(numbers)}
