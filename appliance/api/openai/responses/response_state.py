"""A completion as a response: its state, and the event of every change of it."""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from appliance.api.http.dialect import Problem
from appliance.api.http.ids import new_id
from appliance.api.openai.responses.schemas import FormatBody, ResponseBody
from appliance.api.streaming.sse import NamedFrame
from appliance.domain.completions import Ask, Urgency
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
_INVALID = 400


class Made:
    """`body` is the response as it stands; each method gives the events of its change."""

    def __init__(self, asked: ResponseBody, ask: Ask, model: str) -> None:
        self.body = _body(asked, ask, model)
        self.finished = False
        self._begun = False
        self._number = 0
        self._message: _Message | None = None

    def start(self) -> Iterator[NamedFrame]:
        self._begun = True
        for name in ("response.created", "response.in_progress"):
            yield self._whole(name)

    def advance(self, event: CompletionEvent) -> Iterator[NamedFrame]:
        match event:
            case TextDelta():
                yield from self._text(event)
            case ToolCall():
                yield from self._close_message("completed")
                yield from self._call(event)
            case Finished():
                yield from self._finish(event)

    def fail(self, problem: Problem) -> Iterator[NamedFrame]:
        """The end of a response that could not be completed, or not even begin."""
        if not self._begun:
            yield from self.start()
        yield from self._close_message("incomplete")
        error = {"code": _error_code(problem), "message": problem.message}
        self.body |= {"status": "failed", "error": error}
        yield self._whole("response.failed")

    def _text(self, delta: TextDelta) -> Iterator[NamedFrame]:
        if not delta.text and not delta.likelihoods:
            return
        if self._message is None:
            self._message = _Message()
            yield from self._begin_message(self._message)
        logprobs = [_logprob(each) for each in delta.likelihoods]
        self._message.add(delta.text, logprobs)
        yield self._in_message("response.output_text.delta", delta=delta.text, logprobs=logprobs)

    def _begin_message(self, message: "_Message") -> Iterator[NamedFrame]:
        item = message.item("in_progress", content=[])
        self.body["output"].append(item)
        yield self._in_output("response.output_item.added", item=item)
        yield self._in_message("response.content_part.added", part=_part("", []))

    def _close_message(self, status: str) -> Iterator[NamedFrame]:
        message = self._message
        if message is None:
            return
        part = _part(message.text, message.logprobs)
        yield self._in_message(
            "response.output_text.done", text=message.text, logprobs=message.logprobs
        )
        yield self._in_message("response.content_part.done", part=part)
        self._message = None
        yield self._done(message.item(status, content=[part]))

    def _call(self, call: ToolCall) -> Iterator[NamedFrame]:
        arguments = call.arguments or "{}"
        item: Json = {
            "id": _new_id("fc"),
            "type": "function_call",
            "status": "in_progress",
            "call_id": call.id,
            "name": call.name,
            "arguments": "",
        }
        self.body["output"].append(item)
        yield self._in_output("response.output_item.added", item=item)
        about = {"item_id": item["id"]}
        yield self._in_output("response.function_call_arguments.delta", **about, delta=arguments)
        yield self._in_output("response.function_call_arguments.done", **about, arguments=arguments)
        yield self._done(item | {"status": "completed", "arguments": arguments})

    def _done(self, item: Json) -> NamedFrame:
        self.body["output"][-1] = item
        return self._in_output("response.output_item.done", item=item)

    def _finish(self, finished: Finished) -> Iterator[NamedFrame]:
        reason = _INCOMPLETE.get(finished.reason)
        status = "incomplete" if reason else "completed"
        yield from self._close_message(status)
        self.finished = True
        self.body |= {
            "status": status,
            "completed_at": int(time.time()),
            "incomplete_details": {"reason": reason} if reason else None,
            "usage": _usage(finished.usage),
        }
        yield self._whole(f"response.{status}")

    def _whole(self, name: str) -> NamedFrame:
        # A copy: an event may be written after the next one has changed the response.
        return self._frame(name, response={**self.body, "output": list(self.body["output"])})

    def _in_output(self, name: str, **fields: Any) -> NamedFrame:
        return self._frame(name, output_index=len(self.body["output"]) - 1, **fields)

    def _in_message(self, name: str, **fields: Any) -> NamedFrame:
        item_id = self.body["output"][-1]["id"]
        return self._in_output(name, item_id=item_id, content_index=0, **fields)

    def _frame(self, name: str, **fields: Any) -> NamedFrame:
        number, self._number = self._number, self._number + 1
        return NamedFrame({"type": name, "sequence_number": number, **fields})


class _Message:
    """The text of the output item that is being written."""

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


def _body(asked: ResponseBody, ask: Ask, model: str) -> Json:
    """The response before its first token, with what was asked for as it was understood."""
    wanted = asked.text
    return {
        "id": _new_id("resp"),
        "object": "response",
        "created_at": int(time.time()),
        "completed_at": None,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": asked.instructions,
        "max_output_tokens": asked.max_output_tokens,
        "max_tool_calls": asked.max_tool_calls,
        "metadata": asked.metadata or {},
        "model": model,
        "output": [],
        "parallel_tool_calls": ask.tool_choice.parallel,
        "previous_response_id": None,
        "prompt_cache_key": asked.prompt_cache_key,
        "reasoning": msgspec.to_builtins(asked.reasoning) if asked.reasoning else None,
        "safety_identifier": asked.safety_identifier,
        "service_tier": "flex" if ask.urgency is Urgency.BATCH else "default",
        "store": False,
        "temperature": ask.sampling.temperature,
        "text": {
            "format": _format(wanted.format if wanted else None),
            "verbosity": (wanted.verbosity if wanted else None) or "medium",
        },
        "tool_choice": asked.tool_choice or "auto",
        "tools": asked.tools or [],
        "top_logprobs": asked.top_logprobs or 0,
        "top_p": ask.sampling.top_p,
        "truncation": asked.truncation or "disabled",
        "usage": None,
        "user": asked.user,
    }


def _format(asked: FormatBody | None) -> Json:
    if asked is None:
        return {"type": "text"}
    given: Mapping[str, Any] = msgspec.to_builtins(asked)
    return {name: value for name, value in given.items() if value is not None}


def _part(text: str, logprobs: list[Json]) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def _logprob(drawn: TokenLikelihood) -> Json:
    told = [
        {"token": each.token, "logprob": each.logprob, "bytes": list(each.bytes)}
        for each in (drawn.drawn, *drawn.top)
    ]
    return {**told[0], "top_logprobs": told[1:]}


def _usage(tokens: TokenUsage) -> Json:
    return {
        "input_tokens": tokens.prompt_tokens,
        "input_tokens_details": {"cached_tokens": tokens.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": tokens.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens.total_tokens,
    }


def _error_code(problem: Problem) -> str:
    """The few codes that this format knows."""
    if problem.status == _RATE_LIMITED:
        return "rate_limit_exceeded"
    return "invalid_prompt" if problem.status == _INVALID else "server_error"


def _new_id(prefix: str) -> str:
    return new_id(f"{prefix}_", 32)
