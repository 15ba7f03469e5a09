"""What is said to a model and what comes back, the same for every provider."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from msgspec import Struct


class MessageRole(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class ToolCall(Struct, frozen=True, tag="tool_call"):
    """The model asks for a tool; `arguments` is the JSON text that it wrote."""

    id: str
    name: str
    arguments: str


class Message(Struct, frozen=True):
    """`tool_calls` belong to an assistant's turn; a tool's turn answers `tool_call_id`."""

    role: MessageRole
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


class Tool(Struct, frozen=True):
    """A function that the model may ask for; `parameters` is a JSON schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = {}


class ToolUse(StrEnum):
    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


class ToolChoice(Struct, frozen=True):
    """Whether tools may or must be asked for; `name` with REQUIRED means this one."""

    use: ToolUse = ToolUse.AUTO
    name: str = ""
    parallel: bool = True


class OutputKind(StrEnum):
    TEXT = "text"
    JSON = "json"
    SCHEMA = "schema"
    GRAMMAR = "grammar"


class OutputFormat(Struct, frozen=True):
    """What the answer has to look like: any JSON object, one of `schema`, or of a GBNF `grammar`.

    `name` and `strict` are what clients send along with a schema.
    """

    kind: OutputKind = OutputKind.TEXT
    schema: Mapping[str, Any] | None = None
    grammar: str = ""
    name: str = ""
    strict: bool = True


class Sampling(Struct, frozen=True):
    """How the next token is drawn. Temperature 0 is greedy; `seed` None draws one.

    `logit_bias` holds (token, bias) pairs. `logprobs` None: none are told; N: those of
    the tokens drawn, each with the N likeliest tokens in its place (0 to 20).
    """

    temperature: float = 0.6
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
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
    """Exact counts. `cached_tokens` are the prompt tokens that were not computed again.

    `drafted_tokens` were tried ahead of their turn, of which `accepted_tokens` were drawn.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
            self.drafted_tokens + other.drafted_tokens,
            self.accepted_tokens + other.accepted_tokens,
        )

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class RawPrompt(Struct, frozen=True):
    """A text to go on from, without any chat template; with a suffix, the gap is to be filled."""

    text: str
    suffix: str | None = None


class CompletionRequest(Struct, frozen=True):
    """One completion of one chat, or of a raw prompt (then `messages` is empty).

    `model` is the provider's own name for it. `max_tokens` None means: up to the
    model's room. `owner` says whose text this is: what was computed for one owner is
    never reused for another, and owners take turns where the machine is busy; "" shares
    with nobody. With `shared_system` the leading system message is the box's own, and
    what was computed for it may serve everybody.
    `context_shift` allows forgetting the oldest text instead of ending with LENGTH.
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
    """Vectors for texts; `dimensions` None means: as many as the model has."""

    model: str
    texts: tuple[str, ...]
    dimensions: int | None = None


class Embeddings(Struct, frozen=True):
    """One vector of length 1 (Euclidean norm) per text, in their order."""

    vectors: tuple[tuple[float, ...], ...]
    usage: TokenUsage


class Likelihood(Struct, frozen=True):
    """A token's text and bytes, and the natural logarithm of its probability."""

    token: str
    logprob: float
    bytes: bytes


class TokenLikelihood(Struct, frozen=True):
    """The token that was drawn, and the likeliest ones in its place."""

    drawn: Likelihood
    top: tuple[Likelihood, ...] = ()


class TextDelta(Struct, frozen=True, tag="text"):
    """A piece of the answer: whole characters, never half of one.

    `likelihoods` are of the tokens drawn since the last piece, where they were asked for.
    """

    text: str
    likelihoods: tuple[TokenLikelihood, ...] = ()


class Finished(Struct, frozen=True, tag="finished"):
    """The last event of every stream that ended well.

    `stop` is the stop string that ended it, "" where none did or it is not known.
    """

    reason: FinishReason
    usage: TokenUsage
    stop: str = ""


CompletionEvent = TextDelta | ToolCall | Finished
