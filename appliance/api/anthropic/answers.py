"""Builds messages from completions."""

from typing import Any

import msgspec

from appliance.api.anthropic.schemas import MessageAnswer, TextAnswer, ToolUseAnswer, UsageAnswer
from appliance.api.http.ids import new_id
from appliance.domain.completions import CompletionReport
from appliance.domain.messages import Finished, FinishReason, TextDelta, TokenUsage, ToolCall
from appliance.errors import ProviderFailed
from appliance.services.completions.service import Completion

_REASONS = {
    FinishReason.STOP: "end_turn",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.CONTENT_FILTER: "refusal",
}


async def collect_message(completion: Completion, max_tokens: int) -> MessageAnswer:
    """Read the completion to its end. Raises its errors."""
    content: list[TextAnswer | ToolUseAnswer] = []
    finished: Finished | None = None
    async for event in completion:
        match event:
            case TextDelta():
                _add_text(content, event.text)
            case ToolCall():
                content.append(tool_use_block(event))
            case Finished():
                finished = event
    last = require_finished(finished)
    message = initial_message(completion.report)
    message.content = content
    message.usage = usage_answer(last.usage)
    message.stop_reason, message.stop_sequence = map_stop_reason(last, max_tokens)
    return message


def initial_message(report: CompletionReport) -> MessageAnswer:
    """A message without content, with the usage so far."""
    return MessageAnswer(new_id("msg_"), report.model, usage_answer(report.usage))


def map_stop_reason(finished: Finished, max_tokens: int) -> tuple[str, str | None]:
    """(stop_reason, stop_sequence)."""
    if finished.reason is FinishReason.STOP and finished.stop:
        return "stop_sequence", finished.stop
    if finished.reason is FinishReason.LENGTH:
        full = finished.usage.completion_tokens >= max_tokens
        return ("max_tokens" if full else "model_context_window_exceeded"), None
    return _REASONS[finished.reason], None


def usage_answer(tokens: TokenUsage) -> UsageAnswer:
    return UsageAnswer(
        input_tokens=tokens.prompt_tokens - tokens.cached_tokens,
        cache_read_input_tokens=tokens.cached_tokens,
        output_tokens=tokens.completion_tokens,
    )


def tool_use_block(call: ToolCall) -> ToolUseAnswer:
    """The block of a tool call. Raises ProviderFailed if its arguments are not a JSON object."""
    try:
        arguments = msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        raise ProviderFailed(
            f"the model called {call.name[:80]!r} with arguments that are not a JSON object"
        ) from None
    return ToolUseAnswer(call.id, call.name, arguments)


def require_finished(finished: Finished | None) -> Finished:
    """The last event. Raises ProviderFailed if the completion ended without it."""
    if finished is None:
        raise ProviderFailed("the answer ended before it was complete; try again")
    return finished


def _add_text(content: list[TextAnswer | ToolUseAnswer], text: str) -> None:
    last = content[-1] if content else None
    if isinstance(last, TextAnswer):
        last.text += text
    elif text:
        content.append(TextAnswer(text))
