"""What a provider says of a failure, in any of the forms in use."""

import re
from typing import Any, cast

import msgspec
from msgspec import Struct

_MAX_MESSAGE = 300
_SECRETS = re.compile(
    r"\b(?:sk|pk|mk|rk)-[\w*-]{6,}|\bAIza[\w*-]{8,}|\bBearer\s+\S+|(?<=key=)[^&\s\"']+",
    re.IGNORECASE,
)


class Said(Struct, frozen=True):
    """The message without secrets, the provider's own words for the kind of failure, the
    field that it names, and seconds to wait if it says so."""

    message: str = ""
    kinds: tuple[str, ...] = ()
    field: str = ""
    retry_after: float | None = None
    numbers: tuple[int, int] | None = None

    def about(self, *words: str) -> bool:
        """Whether one of the words is a kind of this failure."""
        return any(word in self.kinds for word in words)


def read(body: bytes, secrets: tuple[str, ...] = ()) -> Said:
    """What an answer with an error says; an empty Said for one that is in no known form."""
    try:
        found = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Said()
    return of(found, secrets)


def of(found: Any, secrets: tuple[str, ...] = ()) -> Said:
    """The same for an answer already decoded."""
    if isinstance(found, list) and found:
        found = cast("list[Any]", found)[0]
    outer = _mapping(found)
    error = outer.get("error", outer.get("detail", outer))
    if isinstance(error, str):
        error = {"message": error}
    inner = _mapping(error)
    words = (inner.get("code"), inner.get("type"), inner.get("status"))
    details = _details(inner)
    return Said(
        message=clean(str(inner.get("message") or ""), secrets),
        kinds=(*(word for word in words if isinstance(word, str)), *_reasons(details)),
        field=param if isinstance(param := inner.get("param"), str) else "",
        retry_after=_retry_delay(details),
        numbers=_room(inner),
    )


def clean(text: str, secrets: tuple[str, ...] = ()) -> str:
    """A foreign text as it may be shown: short, one line, without anything like a key."""
    text = text[: 20 * _MAX_MESSAGE]
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    text = " ".join(_SECRETS.sub("***", text).split())
    text = "".join(letter for letter in text if letter.isprintable())
    return text if len(text) <= _MAX_MESSAGE else text[: _MAX_MESSAGE - 1] + "…"


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _details(error: dict[str, Any]) -> list[dict[str, Any]]:
    """Google's list of details."""
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


def _room(error: dict[str, Any]) -> tuple[int, int] | None:
    """llama-server's own counts of a prompt and of its room."""
    prompt, room = error.get("n_prompt_tokens"), error.get("n_ctx")
    return (prompt, room) if isinstance(prompt, int) and isinstance(room, int) else None
