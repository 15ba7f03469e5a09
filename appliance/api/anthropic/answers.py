"""From a completion to this dialect's message."""

from typing import Any

import msgspec

from appliance.api.anthropic.schemas import MessageAnswer, TextAnswer, ToolUseAnswer, UsageAnswer
from appliance.api.http.ids import new_id
from appliance.domain.completions import Report
from appliance.domain.messages import Finished, FinishReason, TextDelta, TokenUsage, ToolCall
from appliance.errors import ProviderFailed
from appliance.services.completions.protocol import Completion

_REASONS = {
    FinishReason.STOP: "end_turn",
    FinishReason.TOOL_CALLS: "tool_use",
    FinishReason.CONTENT_FILTER: "refusal",
}


async def whole_message(completion: Completion, max_tokens: int) -> MessageAnswer:
    """The message, once it is complete. Raises what the completion raises."""
    content: list[TextAnswer | ToolUseAnswer] = []
    finished: Finished | None = None
    async for event in completion:
        match event:
            case TextDelta():
                _add_text(content, event.text)
            case ToolCall():
                content.append(tool_use(event))
            case Finished():
                finished = event
    ended = settled(finished)
    message = begun(completion.report)
    message.content = content
    message.usage = usage(ended.usage)
    message.stop_reason, message.stop_sequence = ending(ended, max_tokens)
    return message


def begun(report: Report) -> MessageAnswer:
    """A message without content; the tokens are those that are known so far."""
    return MessageAnswer(new_id("msg_"), report.model, usage(report.usage))


def ending(finished: Finished, max_tokens: int) -> tuple[str, str | None]:
    """(stop_reason, stop_sequence)."""
    if finished.reason is FinishReason.STOP and finished.stop:
        return "stop_sequence", finished.stop
    if finished.reason is FinishReason.LENGTH:
        full = finished.usage.completion_tokens >= max_tokens
        return ("max_tokens" if full else "model_context_window_exceeded"), None
    return _REASONS[finished.reason], None


def usage(tokens: TokenUsage) -> UsageAnswer:
    return UsageAnswer(
        input_tokens=tokens.prompt_tokens - tokens.cached_tokens,
        cache_read_input_tokens=tokens.cached_tokens,
        output_tokens=tokens.completion_tokens,
    )


def tool_use(call: ToolCall) -> ToolUseAnswer:
    """The block of a call. Raises ProviderFailed where its arguments are no JSON object."""
    try:
        given = msgspec.json.decode(call.arguments or "{}", type=dict[str, Any])
    except msgspec.DecodeError:
        raise ProviderFailed(
            f"the model called {call.name[:80]!r} with arguments that are no JSON object"
        ) from None
    return ToolUseAnswer(call.id, call.name, given)


def settled(finished: Finished | None) -> Finished:
    """The last event. Raises ProviderFailed where the stream ended without one."""
    if finished is None:
        raise ProviderFailed("the answer ended before it was complete")
    return finished


def _add_text(content: list[TextAnswer | ToolUseAnswer], text: str) -> None:
    last = content[-1] if content else None
    if isinstance(last, TextAnswer):
        last.text += text
    elif text:
        content.append(TextAnswer(text))
