"""Whether a prompt and its answer fit into the model's context. Prompts are never truncated."""

from appliance.domain.tasks import TaskRequest
from appliance.errors import ContextLengthExceeded

MIN_ANSWER_TOKENS = 64


def compute_answer_tokens(
    request: TaskRequest, prompt_tokens: int, context_tokens: int | None, default: int
) -> int:
    """How many tokens the answer may have: the caller's number or `default`, up to what is left.

    Raises ContextLengthExceeded with the numbers if too little is left for a useful answer.
    """
    limit = request.max_tokens or default
    if context_tokens is None:
        return limit
    available = context_tokens - prompt_tokens
    needed = min(limit, MIN_ANSWER_TOKENS)
    if available < needed:
        raise ContextLengthExceeded(
            f"the prompt has {prompt_tokens} tokens and the answer needs {needed}, but the model's "
            f"context is {context_tokens} tokens; shorten the prompt or use a model with a longer "
            "context",
            details={
                "prompt_tokens": prompt_tokens,
                "max_tokens": needed,
                "context_tokens": context_tokens,
            },
        )
    return min(limit, available)
