"""Builds whole response bodies from completions."""

import hashlib
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import accumulate
from statistics import fmean

from msgspec import UNSET, Struct

from appliance import __version__
from appliance.api.http.ids import new_id
from appliance.api.openai.answer_schemas import (
    ChatAnswer,
    ChatChoice,
    ChatLogprobs,
    CompletionDetails,
    FunctionAnswer,
    MessageAnswer,
    PlainAnswer,
    PlainChoice,
    PlainLogprobs,
    PromptDetails,
    RankedToken,
    TokenAnswer,
    ToolCallAnswer,
    UsageAnswer,
)
from appliance.api.openai.stream_merge import CollectedCompletion
from appliance.domain.completions import CompletionReport
from appliance.domain.messages import (
    FinishReason,
    Likelihood,
    TokenLikelihood,
    TokenUsage,
    ToolCall,
)

_MIN_LOGPROB = -9999.0  # stands for a probability of zero, as in OpenAI's API


class AnswerHeader(Struct, frozen=True):
    """Fields that every object of one answer has. `created` is in epoch seconds."""

    id: str
    created: int
    model: str
    fingerprint: str
    tier: str | None = None


class PendingAnswer(Struct, frozen=True):
    """What is known of an answer before a provider has started. `tier` is None if not requested."""

    id: str
    created: int
    tier: str | None = None

    def header(self, report: CompletionReport) -> AnswerHeader:
        fingerprint = system_fingerprint(report.provider, report.model)
        return AnswerHeader(self.id, self.created, report.model, fingerprint, self.tier)


def begin_answer(prefix: str, tier: str | None) -> PendingAnswer:
    """A new answer with a new id."""
    return PendingAnswer(new_id(f"{prefix}-", 28), int(time.time()), tier)


@lru_cache(256)
def system_fingerprint(provider: str, model: str) -> str:
    """Identifies the provider, the model and the version of the appliance."""
    source = f"{__version__} {provider} {model}"
    return f"fp_{hashlib.sha256(source.encode()).hexdigest()[:12]}"


def chat_answer(
    head: AnswerHeader, completions: Sequence[CollectedCompletion], *, logprobs: bool, legacy: bool
) -> ChatAnswer:
    """`legacy` clients have sent `functions` and read `function_call`."""
    return ChatAnswer(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.fingerprint,
        choices=[
            ChatChoice(
                index,
                _message(each, legacy=legacy),
                finish_reason(each.finished.reason, legacy=legacy),
                chat_logprobs(each.likelihoods) if logprobs else None,
            )
            for index, each in enumerate(completions)
        ],
        usage=usage_answer(
            sum_usage([each.finished.usage for each in completions], len(completions))
        ),
        service_tier=UNSET if head.tier is None else head.tier,
    )


def plain_answer(
    head: AnswerHeader,
    groups: Sequence[Sequence[CollectedCompletion]],
    choices: int,
    *,
    logprobs: bool,
    echoes: Sequence[str],
) -> PlainAnswer:
    """The `choices` best completions of each prompt, each after the prompt's echo ("": none)."""
    best = [(echo, each) for echo, group in zip(echoes, groups, strict=True)
            for each in select_most_likely(group, choices)]  # fmt: skip
    used = [each.finished.usage for group in groups for each in group]
    return PlainAnswer(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.fingerprint,
        choices=[
            PlainChoice(
                index,
                echo + each.text,
                each.finished.reason,
                plain_logprobs(each.likelihoods, 0) if logprobs else None,
            )
            for index, (echo, each) in enumerate(best)
        ],
        usage=usage_answer(sum_usage(used, len(groups[0]))),
        service_tier=UNSET if head.tier is None else head.tier,
    )


def select_most_likely(
    group: Sequence[CollectedCompletion], count: int
) -> Sequence[CollectedCompletion]:
    """The `count` completions with the highest mean logprob, best first."""
    if count >= len(group):
        return group
    return sorted(group, key=_mean_logprob, reverse=True)[:count]


def sum_usage(used: Sequence[TokenUsage], choices: int) -> TokenUsage:
    """The usage of a request; a prompt that `choices` completions share counts once."""
    firsts = used[::choices]
    return TokenUsage(
        prompt_tokens=sum(each.prompt_tokens for each in firsts),
        completion_tokens=sum(each.completion_tokens for each in used),
        cached_tokens=sum(each.cached_tokens for each in firsts),
        reasoning_tokens=sum(each.reasoning_tokens for each in used),
    )


def usage_answer(usage: TokenUsage) -> UsageAnswer:
    return UsageAnswer(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        prompt_tokens_details=PromptDetails(usage.cached_tokens),
        completion_tokens_details=CompletionDetails(usage.reasoning_tokens),
    )


def finish_reason(reason: FinishReason, *, legacy: bool) -> str:
    if legacy and reason is FinishReason.TOOL_CALLS:
        return "function_call"
    return reason.value


def chat_logprobs(likelihoods: Iterable[TokenLikelihood]) -> ChatLogprobs:
    return ChatLogprobs(
        [
            TokenAnswer(
                each.drawn.token,
                _clamp_logprob(each.drawn.logprob),
                list(each.drawn.bytes),
                [_ranked_token(other) for other in each.top],
            )
            for each in likelihoods
        ]
    )


def plain_logprobs(likelihoods: Sequence[TokenLikelihood], start: int) -> PlainLogprobs:
    """`start` is the offset of the first token."""
    tokens = [each.drawn.token for each in likelihoods]
    return PlainLogprobs(
        tokens=tokens,
        token_logprobs=[_clamp_logprob(each.drawn.logprob) for each in likelihoods],
        top_logprobs=[
            {other.token: _clamp_logprob(other.logprob) for other in each.top}
            for each in likelihoods
        ],
        text_offset=list(accumulate(map(len, tokens), initial=start))[: len(tokens)],
    )


def _message(completion: CollectedCompletion, *, legacy: bool) -> MessageAnswer:
    content = None if completion.tool_calls and not completion.text else completion.text
    if not completion.tool_calls:
        return MessageAnswer(content)
    if legacy:
        return MessageAnswer(content, function_call=function_answer(completion.tool_calls[0]))
    calls = [ToolCallAnswer(call.id, function_answer(call)) for call in completion.tool_calls]
    return MessageAnswer(content, tool_calls=calls)


def function_answer(call: ToolCall) -> FunctionAnswer:
    return FunctionAnswer(call.name, call.arguments)


def _ranked_token(other: Likelihood) -> RankedToken:
    return RankedToken(other.token, _clamp_logprob(other.logprob), list(other.bytes))


def _clamp_logprob(logprob: float) -> float:
    return max(logprob, _MIN_LOGPROB)


def _mean_logprob(completion: CollectedCompletion) -> float:
    logprobs = [each.drawn.logprob for each in completion.likelihoods]
    return fmean(logprobs) if logprobs else float("-inf")
