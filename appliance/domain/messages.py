"""Requests to models and the events that stream back, the same for every provider."""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct


class MessageRole(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class ToolCall(Struct, frozen=True, tag="tool_call"):
    """A tool call by the model; `arguments` is JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str


class MediaPart(Struct, frozen=True):
    """A part of a message that is no text: base64 `data`, or a `url`; without both it is unknown.

    `kind` is "image", "document", "audio", or a client's name for something else.
    """

    kind: str
    media_type: str = ""
    data: str = ""
    url: str = ""
    name: str = ""

    @property
    def placeholder(self) -> str:
        """What stands for it where it can't be passed on."""
        return f"[{self.kind} omitted: this model reads text only]"


MessagePart = str | MediaPart


class Message(Struct, frozen=True):
    """`tool_calls` belong to assistant messages; a tool message answers `tool_call_id`.

    `content` is the whole text, with placeholders for what is no text. A message that holds more
    than text has it in `parts`, in order.
    """

    role: MessageRole
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    parts: tuple[MessagePart, ...] = ()

    @property
    def media(self) -> tuple[MediaPart, ...]:
        return tuple(part for part in self.parts if isinstance(part, MediaPart))


def join_parts(parts: Iterable[MessagePart], separator: str) -> tuple[str, tuple[MessagePart, ...]]:
    """`content` and `parts` of a message; empty texts are left out."""
    kept = tuple(part for part in parts if part != "")
    texts = (part if isinstance(part, str) else part.placeholder for part in kept)
    has_media = any(isinstance(part, MediaPart) for part in kept)
    return separator.join(texts), kept if has_media else ()


class Tool(Struct, frozen=True):
    """A function that the model may call; `parameters` is a JSON schema.

    `strict`: calls must fit the schema exactly; None: not given.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = {}
    strict: bool | None = None


class ToolUse(StrEnum):
    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


class ToolChoice(Struct, frozen=True):
    """Whether tools may or must be called; REQUIRED with `name` means this tool.

    None: not given. Providers then let the model decide, and allow parallel calls.
    """

    use: ToolUse | None = None
    name: str = ""
    parallel: bool | None = None


class OutputKind(StrEnum):
    TEXT = "text"
    JSON = "json"
    SCHEMA = "schema"
    GRAMMAR = "grammar"


class OutputFormat(Struct, frozen=True):
    """Required form of the answer: any JSON object, one that fits `schema`, or a GBNF `grammar`.

    `name` and `strict` are sent by clients with a schema; `strict` None: not given.
    """

    kind: OutputKind = OutputKind.TEXT
    schema: Mapping[str, Any] | None = None
    grammar: str = ""
    name: str = ""
    strict: bool | None = None


class Sampling(Struct, frozen=True):
    """Sampling parameters as the caller gave them. Temperature 0 is greedy.

    None means "not given": a remote provider is sent nothing, so that its own default applies, and
    the local engine fills in its defaults when it builds the sampler.

    `logit_bias` holds (token, bias) pairs. `logprobs` N (0 to 20) returns the log probability of
    each sampled token and of the N most likely tokens in its place; None returns none.
    """

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    logprobs: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CONTENT_FILTER = "content_filter"


class TokenUsage(Struct, frozen=True):
    """Exact counts. `cached_tokens` are prompt tokens that came from the prefix cache.

    `drafted_tokens` were proposed by speculative decoding, `accepted_tokens` of them accepted.
    `reasoning_tokens` are completion tokens that a remote model does not show.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.drafted_tokens + other.drafted_tokens,
            self.accepted_tokens + other.accepted_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class RawPrompt(Struct, frozen=True):
    """A text to continue, without chat template; with a suffix, the text between is generated."""

    text: str
    suffix: str | None = None


class CompletionRequest(Struct, frozen=True):
    """One completion of one chat, or of a raw prompt (then `messages` is empty).

    `model` is the provider's own name for it. `max_tokens` is a cap: the answer also ends where the
    context does; None: not given. `owner` identifies the user: cached prefixes of one owner never
    serve another, and busy engines are shared fairly between owners; "" shares a cache with
    nobody. With `shared_system` the leading system message holds no text of a user's, and its
    cached prefix may serve everybody. `context_shift` drops the oldest text instead of ending with
    LENGTH.
    """

    model: str
    messages: tuple[Message, ...] = ()
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    owner: str = ""
    shared_system: bool = False
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    output: OutputFormat = OutputFormat()
    raw: RawPrompt | None = None
    context_shift: bool = False


class EmbeddingRequest(Struct, frozen=True):
    """Embeddings of texts; `dimensions` None means: as many as the model has."""

    model: str
    texts: tuple[str, ...]
    dimensions: int | None = None


class Embeddings(Struct, frozen=True):
    """One vector of Euclidean length 1 per text, in the order of the texts."""

    vectors: tuple[tuple[float, ...], ...]
    usage: TokenUsage


class Likelihood(Struct, frozen=True):
    """A token's text and bytes, and the natural logarithm of its probability."""

    token: str
    logprob: float
    bytes: bytes


class TokenLikelihood(Struct, frozen=True):
    """The sampled token (`drawn`), and the most likely tokens in its place."""

    drawn: Likelihood
    top: tuple[Likelihood, ...] = ()


class TextDelta(Struct, frozen=True, tag="text"):
    """A piece of the answer, of whole characters.

    `likelihoods` are those of the tokens sampled since the last piece, if requested.
    """

    text: str
    likelihoods: tuple[TokenLikelihood, ...] = ()


class Finished(Struct, frozen=True, tag="finished"):
    """The last event of every stream that ended without an error.

    `stop` is the stop string that ended it, "" if none did or it is unknown.
    """

    reason: FinishReason
    usage: TokenUsage
    stop: str = ""


CompletionEvent = TextDelta | ToolCall | Finished
