"""Converts requests to completion specs: pure functions."""

from appliance.api.openai.messages import convert_messages
from appliance.api.openai.schemas import ChatBody, CompletionBody, EmbeddingBody, GenerationBody
from appliance.api.openai.tool_options import convert_output_format, convert_tools, grammar_output
from appliance.domain.completions import CompletionSpec
from appliance.domain.messages import EmbeddingRequest, OutputFormat, RawPrompt, Sampling
from appliance.domain.tasks import Priority
from appliance.errors import InvalidInput

_MAX_PROMPTS = 128
_MAX_TEXTS = 2048
_BATCH_TIERS = frozenset({"flex", "batch"})
_NO_IDS = "token ids are not supported, since each model has its own; send text"
_UNSUPPORTED_IN_CHAT = {
    "audio": "is not supported: models here generate text; leave it out",
    "web_search_options": "is not supported: there is no web search; send the text in a message",
    "moderation": "is not supported: there is no moderation model; leave it out",
}


def chat_spec(body: ChatBody, labels: tuple[str, ...] = ()) -> CompletionSpec:
    """The spec of a chat. Raises InvalidInput naming the field."""
    _reject_unsupported_in_chat(body)
    if not body.messages:
        raise InvalidInput.at("messages", "must hold at least one message")
    if body.top_logprobs is not None and not body.logprobs:
        raise InvalidInput.at("top_logprobs", "requires `logprobs: true`")
    tools, choice = convert_tools(body)
    return CompletionSpec(
        model=body.model or None,
        messages=convert_messages(body.messages),
        sampling=_sampling(body, (body.top_logprobs or 0) if body.logprobs else None),
        max_tokens=body.max_completion_tokens or body.max_tokens,
        tools=tools,
        tool_choice=choice,
        output=convert_output_format(body),
        context_shift=body.context_shift is True,
        provider=body.provider or None,
        labels=labels,
        priority=parse_service_tier(body.service_tier),
        may_cache=body.cache is not False,
    )


def completion_specs(body: CompletionBody, labels: tuple[str, ...] = ()) -> list[CompletionSpec]:
    """One spec per prompt. Raises InvalidInput naming the field."""
    _reject_unsupported(body)
    _reject_conflicts(body)
    ranks = body.logprobs
    if ranks is None and sample_count(body) > choice_count(body):
        ranks = 0  # best_of ranks completions by their logprobs
    sampling = _sampling(body, ranks)
    output = OutputFormat() if body.grammar is None else grammar_output(body.grammar)
    return [
        CompletionSpec(
            model=body.model or None,
            sampling=sampling,
            max_tokens=body.max_tokens,
            output=output,
            raw=RawPrompt(text, body.suffix or None),
            context_shift=body.context_shift is True,
            provider=body.provider or None,
            labels=labels,
            priority=parse_service_tier(body.service_tier),
            may_cache=body.cache is not False,
        )
        for text in _texts("prompt", body.prompt, _MAX_PROMPTS // sample_count(body))
    ]


def embedding_request(body: EmbeddingBody) -> EmbeddingRequest:
    """The request for the vectors of all texts. Raises InvalidInput naming the field."""
    if body.encoding_format not in (None, "float", "base64"):
        raise InvalidInput.at("encoding_format", "must be float or base64")
    texts = _texts("input", body.input, _MAX_TEXTS)
    for index, text in enumerate(texts):
        if not text:
            raise InvalidInput.at(f"input[{index}]", "must not be empty")
    return EmbeddingRequest(body.model, tuple(texts), body.dimensions)


def choice_count(body: GenerationBody) -> int:
    """How many choices the answer has per prompt."""
    return body.n or 1


def sample_count(body: CompletionBody) -> int:
    """How many completions are generated per prompt; the best `n` are returned."""
    return body.best_of or choice_count(body)


def response_tier(body: GenerationBody) -> str | None:
    """The service tier of the answer; None if the request has none."""
    if body.service_tier is None:
        return None
    return tier_name(parse_service_tier(body.service_tier))


def parse_service_tier(service_tier: str | None) -> Priority:
    """The priority of a request with that `service_tier`."""
    return Priority.BATCH if service_tier in _BATCH_TIERS else Priority.INTERACTIVE


def tier_name(priority: Priority) -> str:
    """The `service_tier` of an answer."""
    return "flex" if priority is Priority.BATCH else "default"


def metadata_labels(body: GenerationBody) -> str:
    """`metadata.labels`: comma-separated labels."""
    labels = (body.metadata or {}).get("labels", "")
    if not isinstance(labels, str):
        raise InvalidInput.at("metadata.labels", "must be a string of comma-separated labels")
    return labels


def wants_usage(body: GenerationBody) -> bool:
    """Whether a stream ends with the usage. Raises InvalidInput if nothing is streamed."""
    if body.stream_options is None:
        return False
    if not body.stream:
        raise InvalidInput.at("stream_options", "requires `stream: true`")
    return body.stream_options.include_usage is True


def _sampling(body: GenerationBody, logprobs: int | None) -> Sampling:
    return Sampling(
        temperature=body.temperature,
        top_k=body.top_k,
        top_p=body.top_p,
        min_p=body.min_p,
        repeat_penalty=body.repeat_penalty,
        frequency_penalty=body.frequency_penalty,
        presence_penalty=body.presence_penalty,
        logit_bias=tuple(body.logit_bias.items()) if body.logit_bias else (),
        logprobs=logprobs,
        seed=body.seed,
        stop=_stop_sequences(body.stop),
    )


def _stop_sequences(stop: str | list[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _texts(field: str, value: str | list[str | int | list[int]], max_texts: int) -> list[str]:
    if isinstance(value, str):
        return [value]
    texts = [each for each in value if isinstance(each, str)]
    if len(texts) < len(value):
        raise InvalidInput.at(field, _NO_IDS)
    if not 0 < len(texts) <= max_texts:
        raise InvalidInput.at(field, f"must hold 1 to {max_texts} texts")
    return texts


def _reject_unsupported(body: GenerationBody) -> None:
    if body.store:
        raise InvalidInput.at("store", "is not supported: completions are not stored; leave it out")


def _reject_unsupported_in_chat(body: ChatBody) -> None:
    _reject_unsupported(body)
    for field, reason in _UNSUPPORTED_IN_CHAT.items():
        if getattr(body, field) is not None:
            raise InvalidInput.at(field, reason)
    if any(modality != "text" for modality in body.modalities or ()):
        raise InvalidInput.at("modalities", _UNSUPPORTED_IN_CHAT["audio"])


def _reject_conflicts(body: CompletionBody) -> None:
    if body.echo and body.logprobs is not None:
        raise InvalidInput.at("logprobs", "can't be combined with `echo`")
    if sample_count(body) < choice_count(body):
        raise InvalidInput.at("best_of", "must be at least `n`")
    if body.stream and sample_count(body) > choice_count(body):
        raise InvalidInput.at("best_of", "must equal `n` in a stream")
