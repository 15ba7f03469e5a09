"""From this dialect's requests to what the box is asked: pure functions."""

from collections.abc import Iterable

from appliance.api.openai.messages import messages_of
from appliance.api.openai.schemas import ChatBody, CompletionBody, EmbeddingBody, GenerationBody
from appliance.api.openai.tool_options import grammar_output, output_of, tools_of
from appliance.domain.completions import Ask, Urgency
from appliance.domain.messages import EmbeddingRequest, OutputFormat, RawPrompt, Sampling
from appliance.errors import InvalidInput

_MIN_P = 0.05
_PLAIN_TOKENS = 16
_PROMPTS = 128
_TEXTS = 2048
_PATIENT_TIERS = frozenset({"flex", "batch"})
_NO_IDS = "token ids can't be read here, since each model has its own; send text"
_REFUSED_IN_CHAT = {
    "audio": "this box's models write text, not audio",
    "web_search_options": "this box does not search the web; give the text with the messages",
    "moderation": "this box has no moderation model",
}


def chat_ask(body: ChatBody, labels: tuple[str, ...] = ()) -> Ask:
    """One chat."""
    _refuse_what_chat_can_not(body)
    if not body.messages:
        raise InvalidInput.at("messages", "at least one message is needed")
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidInput.at("top_logprobs", "needs `logprobs: true`")
    tools, choice = tools_of(body)
    return Ask(
        model=body.model or None,
        messages=messages_of(body.messages),
        sampling=_sampling(body, (body.top_logprobs or 0) if body.logprobs else None),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        tools=tools,
        tool_choice=choice,
        output=output_of(body),
        context_shift=body.context_shift is True,
        provider=body.provider or None,
        labels=labels,
        urgency=_urgency(body),
        may_cache=body.cache is not False,
    )


def completion_asks(body: CompletionBody, labels: tuple[str, ...] = ()) -> list[Ask]:
    """One plain completion per prompt."""
    _refuse_what_nobody_can(body)
    _refuse_what_does_not_go_together(body)
    ranks = body.logprobs
    if ranks is None and drawn(body) > shown(body):
        ranks = 0  # the best of several are chosen by their likelihood
    sampling = _sampling(body, ranks)
    output = OutputFormat() if body.grammar is None else grammar_output(body.grammar)
    return [
        Ask(
            model=body.model or None,
            sampling=sampling,
            max_tokens=body.max_tokens or _PLAIN_TOKENS,
            output=output,
            raw=RawPrompt(text, body.suffix or None),
            context_shift=body.context_shift is True,
            provider=body.provider or None,
            labels=labels,
            urgency=_urgency(body),
            may_cache=body.cache is not False,
        )
        for text in _texts("prompt", body.prompt, _PROMPTS // drawn(body))
    ]


def embedding_request(body: EmbeddingBody) -> EmbeddingRequest:
    """All texts of one request."""
    if body.encoding_format not in (None, "float", "base64"):
        raise InvalidInput.at("encoding_format", "must be float or base64")
    texts = _texts("input", body.input, _TEXTS)
    for index, text in enumerate(texts):
        if not text:
            raise InvalidInput.at(f"input[{index}]", "must not be empty")
    return EmbeddingRequest(body.model, tuple(texts), body.dimensions)


def shown(body: GenerationBody) -> int:
    """How many choices the answer has for each prompt."""
    return body.n or 1


def drawn(body: CompletionBody) -> int:
    """How many are made for each prompt, of which the best are shown."""
    return body.best_of or shown(body)


def tier_of(body: GenerationBody) -> str | None:
    """The service tier that the answer names, where the request names one."""
    if body.service_tier is None:
        return None
    return "flex" if _urgency(body) is Urgency.BATCH else "default"


def labels_in(body: GenerationBody) -> str:
    """`metadata.labels`: what the text belongs to, with commas between."""
    given = (body.metadata or {}).get("labels", "")
    if not isinstance(given, str):
        raise InvalidInput.at("metadata.labels", "must be a string, with commas between labels")
    return given


def wants_usage(body: GenerationBody) -> bool:
    """Whether a stream ends with what was used. Raises InvalidInput where nothing is streamed."""
    if body.stream_options is None:
        return False
    if not body.stream:
        raise InvalidInput.at("stream_options", "is only allowed with `stream: true`")
    return body.stream_options.include_usage is True


def _sampling(body: GenerationBody, logprobs: int | None) -> Sampling:
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=body.top_k or 0,
        top_p=1.0 if body.top_p is None else body.top_p,
        min_p=_MIN_P if body.min_p is None else body.min_p,
        repeat_penalty=body.repeat_penalty or 1.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        presence_penalty=body.presence_penalty or 0.0,
        logit_bias=tuple(body.logit_bias.items()) if body.logit_bias else (),
        logprobs=logprobs,
        seed=body.seed,
        stop=_stops(body.stop),
    )


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _urgency(body: GenerationBody) -> Urgency:
    return Urgency.BATCH if body.service_tier in _PATIENT_TIERS else Urgency.INTERACTIVE


def _texts(field: str, given: str | list[str | int | list[int]], most: int) -> list[str]:
    if isinstance(given, str):
        return [given]
    texts = [each for each in given if isinstance(each, str)]
    if len(texts) < len(given):
        raise InvalidInput.at(field, _NO_IDS)
    if not 0 < len(texts) <= most:
        raise InvalidInput.at(field, f"must hold 1 to {most} texts")
    return texts


def _refuse_what_nobody_can(body: GenerationBody) -> None:
    if body.store:
        raise InvalidInput.at("store", "this box stores no completions; leave it out")


def _refuse_what_chat_can_not(body: ChatBody) -> None:
    _refuse_what_nobody_can(body)
    for field, reason in _REFUSED_IN_CHAT.items():
        if getattr(body, field) is not None:
            raise InvalidInput.at(field, reason)
    if _others(body.modalities or (), "text"):
        raise InvalidInput.at("modalities", _REFUSED_IN_CHAT["audio"])


def _refuse_what_does_not_go_together(body: CompletionBody) -> None:
    if body.echo and body.logprobs is not None:
        raise InvalidInput.at("logprobs", "can't be combined with `echo`")
    if drawn(body) < shown(body):
        raise InvalidInput.at("best_of", "must be at least `n`")
    if body.stream and drawn(body) > shown(body):
        raise InvalidInput.at("best_of", "more than `n` can't be streamed")


def _others(values: Iterable[str], known: str) -> list[str]:
    return [value for value in values if value != known]
