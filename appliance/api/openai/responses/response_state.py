"""The state of a response while it is generated, and the events of each change."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from appliance.api.http.dialect import Problem
from appliance.api.http.ids import new_id
from appliance.api.openai.convert import tier_name
from appliance.api.openai.responses.call_items import build_call_item
from appliance.api.openai.responses.convert import ConvertedRequest
from appliance.api.openai.responses.schemas import FormatBody, ResponseBody
from appliance.api.streaming.sse import NamedFrame
from appliance.domain.messages import (
    CompletionEvent,
    Finished,
    FinishReason,
    TextDelta,
    TokenLikelihood,
    TokenUsage,
    ToolCall,
)

Json = dict[str, Any]

_INCOMPLETE = {
    FinishReason.LENGTH: "max_output_tokens",
    FinishReason.CONTENT_FILTER: "content_filter",
}
_RATE_LIMITED = 429
_TOO_LONG = "CONTEXT_LENGTH_EXCEEDED"
_INVALID = 400


class ResponseState:
    """`body` is the response so far; each method changes it and yields the events of the change.

    `created_at` is when the request arrived, in epoch seconds.
    """

    def __init__(
        self, body: ResponseBody, request: ConvertedRequest, model: str, created_at: int
    ) -> None:
        self.body = _initial_body(body, request, model, created_at)
        self._tools = request.tools
        self.finished = False
        self._started = False
        self._number = 0
        self._message: _OpenMessage | None = None

    def start(self) -> Iterator[NamedFrame]:
        self._started = True
        for name in ("response.created", "response.in_progress"):
            yield self._response_event(name)

    def apply_event(self, event: CompletionEvent) -> Iterator[NamedFrame]:
        match event:
            case TextDelta():
                yield from self._add_text(event)
            case ToolCall():
                yield from self._close_message("completed")
                yield from self._add_tool_call(event)
            case Finished():
                yield from self._finish(event)

    def fail(self, problem: Problem) -> Iterator[NamedFrame]:
        """End a response that failed, even before its start."""
        if not self._started:
            yield from self.start()
        yield from self._close_message("incomplete")
        error = {"code": _error_code(problem), "message": problem.message}
        self.body |= {"status": "failed", "error": error}
        yield self._response_event("response.failed")

    def _add_text(self, delta: TextDelta) -> Iterator[NamedFrame]:
        if not delta.text and not delta.likelihoods:
            return
        if self._message is None:
            self._message = _OpenMessage()
            yield from self._begin_message(self._message)
        logprobs = [_logprob(each) for each in delta.likelihoods]
        self._message.add(delta.text, logprobs)
        yield self._content_event("response.output_text.delta", delta=delta.text, logprobs=logprobs)

    def _begin_message(self, message: "_OpenMessage") -> Iterator[NamedFrame]:
        item = message.item("in_progress", content=[])
        self.body["output"].append(item)
        yield self._item_event("response.output_item.added", item=item)
        yield self._content_event("response.content_part.added", part=_part("", []))

    def _close_message(self, status: str) -> Iterator[NamedFrame]:
        message = self._message
        if message is None:
            return
        part = _part(message.text, message.logprobs)
        yield self._content_event(
            "response.output_text.done", text=message.text, logprobs=message.logprobs
        )
        yield self._content_event("response.content_part.done", part=part)
        self._message = None
        yield self._close_item(message.item(status, content=[part]))

    def _add_tool_call(self, call: ToolCall) -> Iterator[NamedFrame]:
        kind, item = build_call_item(call, self._tools.find(call.name))
        opened = item | {"status": "in_progress"}
        if kind.events:
            opened[kind.field] = ""
        self.body["output"].append(opened)
        yield self._item_event("response.output_item.added", item=opened)
        if kind.events:
            about, text = {"item_id": item["id"]}, item[kind.field]
            yield self._item_event(f"{kind.events}.delta", **about, delta=text)
            yield self._item_event(f"{kind.events}.done", **about, **{kind.field: text})
        yield self._close_item(item)

    def _close_item(self, item: Json) -> NamedFrame:
        self.body["output"][-1] = item
        return self._item_event("response.output_item.done", item=item)

    def _finish(self, finished: Finished) -> Iterator[NamedFrame]:
        reason = _INCOMPLETE.get(finished.reason)
        status = "incomplete" if reason else "completed"
        yield from self._close_message(status)
        self.finished = True
        self.body |= {
            "status": status,
            "completed_at": None if reason else int(time.time()),
            "incomplete_details": {"reason": reason} if reason else None,
            "usage": _usage(finished.usage),
        }
        yield self._response_event(f"response.{status}")

    def _response_event(self, name: str) -> NamedFrame:
        # A copy: an event can be encoded after a later change.
        return self._build_frame(name, response={**self.body, "output": list(self.body["output"])})

    def _item_event(self, name: str, **fields: Any) -> NamedFrame:
        return self._build_frame(name, output_index=len(self.body["output"]) - 1, **fields)

    def _content_event(self, name: str, **fields: Any) -> NamedFrame:
        item_id = self.body["output"][-1]["id"]
        return self._item_event(name, item_id=item_id, content_index=0, **fields)

    def _build_frame(self, name: str, **fields: Any) -> NamedFrame:
        number, self._number = self._number, self._number + 1
        return NamedFrame({"type": name, "sequence_number": number, **fields})


class _OpenMessage:
    """The message that is being generated, the last of the output items."""

    def __init__(self) -> None:
        self.id = _new_id("msg")
        self.text = ""
        self.logprobs: list[Json] = []

    def add(self, text: str, logprobs: list[Json]) -> None:
        self.text += text
        self.logprobs += logprobs

    def item(self, status: str, content: list[Json]) -> Json:
        return {
            "id": self.id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": content,
        }


def _initial_body(
    body: ResponseBody, request: ConvertedRequest, model: str, created_at: int
) -> Json:
    """The response before its first token, with the options in effect."""
    text, spec = body.text, request.spec
    return {
        "id": _new_id("resp"),
        "object": "response",
        "created_at": created_at,
        "completed_at": None,
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "max_tool_calls": body.max_tool_calls,
        "metadata": body.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": spec.tool_choice.parallel is not False,
        "prompt_cache_key": body.prompt_cache_key,
        "reasoning": msgspec.to_builtins(body.reasoning) if body.reasoning else None,
        "safety_identifier": body.safety_identifier,
        "service_tier": tier_name(spec.priority),
        "temperature": spec.sampling.temperature,
        "text": {
            "format": _format(text.format if text else None),
            "verbosity": (text.verbosity if text else None) or "medium",
        },
        "tool_choice": body.tool_choice or "auto",
        "tools": request.tools.declarations,
        "top_logprobs": body.top_logprobs or 0,
        "top_p": spec.sampling.top_p,
        "truncation": body.truncation or "disabled",
        "usage": None,
        "user": body.user,
    }


def _format(body: FormatBody | None) -> Json:
    if body is None:
        return {"type": "text"}
    fields: Mapping[str, Any] = msgspec.to_builtins(body)
    return {name: value for name, value in fields.items() if value is not None}


def _part(text: str, logprobs: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _logprob(likelihood: TokenLikelihood) -> Json:
    tokens = [
        {"token": each.token, "logprob": each.logprob, "bytes": list(each.bytes)}
        for each in (likelihood.drawn, *likelihood.top)
    ]
    return {**tokens[0], "top_logprobs": tokens[1:]}


def _usage(tokens: TokenUsage) -> Json:
    return {
        "input_tokens": tokens.prompt_tokens,
        "input_tokens_details": {"cached_tokens": tokens.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": tokens.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": tokens.reasoning_tokens},
        "total_tokens": tokens.total_tokens,
    }


def _error_code(problem: Problem) -> str:
    """One of the codes of this format, and the one by which clients know a full context."""
    if problem.code == _TOO_LONG:
        return _TOO_LONG.lower()
    if problem.status == _RATE_LIMITED:
        return "rate_limit_exceeded"
    return "invalid_prompt" if problem.status == _INVALID else "server_error"


def _new_id(prefix: str) -> str:
    return new_id(f"{prefix}_", 32)
