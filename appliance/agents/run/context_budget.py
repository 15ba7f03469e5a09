"""Whether a prompt and its answer fit into the model's room: counted, never cut."""

from appliance.domain.tasks import TaskRequest
from appliance.errors import ContextLengthExceeded

SMALLEST_ANSWER = 64


def answer_tokens(
    request: TaskRequest, prompt_tokens: int, context_tokens: int | None, default: int
) -> int:
    """How many tokens the answer may have.

    What the caller asked for is given or refused; the box's default shrinks to what is
    left. Raises ContextLengthExceeded with the numbers.
    """
    asked = request.max_tokens
    if context_tokens is None:
        return asked or default
    room = context_tokens - prompt_tokens
    needed = asked or min(default, SMALLEST_ANSWER)
    if room < needed:
        raise ContextLengthExceeded(
            f"the prompt has {prompt_tokens} tokens and the answer needs {needed}; the model has "
            f"room for {context_tokens}. Send less, or use a model with more room",
            details={
                "prompt_tokens": prompt_tokens,
                "max_tokens": needed,
                "context_tokens": context_tokens,
            },
        )
    return asked or min(default, room)
