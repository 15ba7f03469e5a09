"""Parses the error bodies of OpenAI, Anthropic, Gemini, vLLM and llama-server."""

import re
from typing import Any, cast

import msgspec
from msgspec import Struct

_MAX_MESSAGE_CHARS = 300
_SECRETS = re.compile(
    r"\b(?:sk|pk|mk|rk)-[\w*-]{6,}|\bAIza[\w*-]{8,}|\bBearer\s+\S+|(?<=key=)[^&\s\"']+",
    re.IGNORECASE,
)


class ProviderErrorBody(Struct, frozen=True):
    """An error as the provider reports it; what it leaves out is empty or None.

    `message` is sanitized. `kinds` are its codes, types and reasons, `field` the parameter
    at fault, `retry_after` seconds, `token_counts` the prompt's tokens and the context's.
    """

    message: str = ""
    kinds: tuple[str, ...] = ()
    field: str = ""
    retry_after: float | None = None
    token_counts: tuple[int, int] | None = None

    def has_kind(self, *kinds: str) -> bool:
        """Whether the error is of one of these kinds."""
        return any(kind in self.kinds for kind in kinds)


def decode_error_body(body: bytes, secrets: tuple[str, ...] = ()) -> ProviderErrorBody:
    """Parse a response body; an empty ProviderErrorBody if it has no known form."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ProviderErrorBody()
    return parse_error_body(value, secrets)


def parse_error_body(value: Any, secrets: tuple[str, ...] = ()) -> ProviderErrorBody:
    """Parse a decoded JSON value, see `decode_error_body`."""
    if isinstance(value, list) and value:
        value = cast("list[Any]", value)[0]
    outer = _mapping(value)
    error = outer.get("error", outer.get("detail", outer))
    if isinstance(error, str):
        error = {"message": error}
    inner = _mapping(error)
    kinds = (inner.get("code"), inner.get("type"), inner.get("status"))
    details = _details(inner)
    return ProviderErrorBody(
        message=sanitize(str(inner.get("message") or ""), secrets),
        kinds=(*(kind for kind in kinds if isinstance(kind, str)), *_reasons(details)),
        field=param if isinstance(param := inner.get("param"), str) else "",
        retry_after=_retry_delay(details),
        token_counts=_token_counts(inner),
    )


def sanitize(text: str, secrets: tuple[str, ...] = ()) -> str:
    """A provider's text, safe to show: short, one line, without keys and the given secrets."""
    text = text[: 20 * _MAX_MESSAGE_CHARS]
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    text = " ".join(_SECRETS.sub("***", text).split())
    text = "".join(char for char in text if char.isprintable())
    return text if len(text) <= _MAX_MESSAGE_CHARS else text[: _MAX_MESSAGE_CHARS - 1] + "…"


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _details(error: dict[str, Any]) -> list[dict[str, Any]]:
    """Google's list of error details."""
    details = error.get("details")
    return [_mapping(item) for item in cast("list[Any]", details)] if _is_list(details) else []


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _reasons(details: list[dict[str, Any]]) -> list[str]:
    return [reason for item in details if isinstance(reason := item.get("reason"), str)]


def _retry_delay(details: list[dict[str, Any]]) -> float | None:
    for item in details:
        seconds = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)s", str(item.get("retryDelay", "")))
        if seconds:
            return float(seconds[1])
    return None


def _token_counts(error: dict[str, Any]) -> tuple[int, int] | None:
    """The prompt's tokens and the context's, as llama-server reports them."""
    prompt, context = error.get("n_prompt_tokens"), error.get("n_ctx")
    return (prompt, context) if isinstance(prompt, int) and isinstance(context, int) else None
