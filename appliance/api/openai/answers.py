"""From completions to whole answers of this dialect."""

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
from appliance.api.openai.stream_merge import Collected
from appliance.domain.completions import Report
from appliance.domain.messages import (
    FinishReason,
    Likelihood,
    TokenLikelihood,
    TokenUsage,
    ToolCall,
)

_IMPOSSIBLE = -9999.0  # what this dialect writes for a probability of zero


class Heading(Struct, frozen=True):
    """What every object of one answer begins with. `created` is in epoch seconds."""

    id: str
    created: int
    model: str
    fingerprint: str
    tier: str | None = None


class Opening(Struct, frozen=True):
    """What is known of an answer before anything has served it; `tier` as the request named it."""

    id: str
    created: int
    tier: str | None = None

    def heading(self, report: Report) -> Heading:
        fingerprint = system_fingerprint(report.provider, report.model)
        return Heading(self.id, self.created, report.model, fingerprint, self.tier)


def opening(prefix: str, tier: str | None) -> Opening:
    """A new answer, begun now."""
    return Opening(new_id(f"{prefix}-", 28), int(time.time()), tier)


@lru_cache(256)
def system_fingerprint(provider: str, model: str) -> str:
    """The same for the same model on the same version of the box."""
    what = f"{__version__} {provider} {model}"
    return f"fp_{hashlib.sha256(what.encode()).hexdigest()[:12]}"


def chat_answer(
    head: Heading, done: Sequence[Collected], *, logprobs: bool, legacy: bool
) -> ChatAnswer:
    """`legacy` clients sent `functions`, and read `function_call`."""
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
            for index, each in enumerate(done)
        ],
        usage=usage_answer(usage_of([each.finished.usage for each in done], len(done))),
        service_tier=UNSET if head.tier is None else head.tier,
    )


def plain_answer(
    head: Heading,
    groups: Sequence[Sequence[Collected]],
    shown: int,
    *,
    logprobs: bool,
    echoes: Sequence[str],
) -> PlainAnswer:
    """The `shown` best of each prompt's completions, behind its echo ("" for none)."""
    best = [(echo, each) for echo, group in zip(echoes, groups, strict=True)
            for each in likeliest(group, shown)]  # fmt: skip
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
        usage=usage_answer(usage_of(used, len(groups[0]))),
        service_tier=UNSET if head.tier is None else head.tier,
    )


def likeliest(group: Sequence[Collected], count: int) -> Sequence[Collected]:
    """The `count` completions whose tokens were likeliest on average, best first."""
    if count >= len(group):
        return group
    return sorted(group, key=_mean_logprob, reverse=True)[:count]


def usage_of(used: Sequence[TokenUsage], choices: int) -> TokenUsage:
    """All of one request; the prompt that `choices` completions share counts once."""
    firsts = used[::choices]
    return TokenUsage(
        prompt_tokens=sum(each.prompt_tokens for each in firsts),
        completion_tokens=sum(each.completion_tokens for each in used),
        cached_tokens=sum(each.cached_tokens for each in firsts),
    )


def usage_answer(usage: TokenUsage) -> UsageAnswer:
    return UsageAnswer(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        total_tokens=usage.total_tokens,
        prompt_tokens_details=PromptDetails(usage.cached_tokens),
        completion_tokens_details=CompletionDetails(),
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
                _finite(each.drawn.logprob),
                list(each.drawn.bytes),
                [_ranked(other) for other in each.top],
            )
            for each in likelihoods
        ]
    )


def plain_logprobs(likelihoods: Sequence[TokenLikelihood], start: int) -> PlainLogprobs:
    """`start` is where the first token's text stands."""
    tokens = [each.drawn.token for each in likelihoods]
    return PlainLogprobs(
        tokens=tokens,
        token_logprobs=[_finite(each.drawn.logprob) for each in likelihoods],
        top_logprobs=[
            {other.token: _finite(other.logprob) for other in each.top} for each in likelihoods
        ],
        text_offset=list(accumulate(map(len, tokens), initial=start))[: len(tokens)],
    )


def _message(done: Collected, *, legacy: bool) -> MessageAnswer:
    content = None if done.tool_calls and not done.text else done.text
    if not done.tool_calls:
        return MessageAnswer(content)
    if legacy:
        return MessageAnswer(content, function_call=function_answer(done.tool_calls[0]))
    calls = [ToolCallAnswer(call.id, function_answer(call)) for call in done.tool_calls]
    return MessageAnswer(content, tool_calls=calls)


def function_answer(call: ToolCall) -> FunctionAnswer:
    return FunctionAnswer(call.name, call.arguments)


def _ranked(other: Likelihood) -> RankedToken:
    return RankedToken(other.token, _finite(other.logprob), list(other.bytes))


def _finite(logprob: float) -> float:
    return max(logprob, _IMPOSSIBLE)


def _mean_logprob(done: Collected) -> float:
    drawn = [each.drawn.logprob for each in done.likelihoods]
    return fmean(drawn) if drawn else float("-inf")
