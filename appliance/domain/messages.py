"""What is said to a model and what comes back, the same for every provider."""

from enum import StrEnum

from msgspec import Struct


class MessageRole(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


class Message(Struct, frozen=True):
    role: MessageRole
    content: str


class Sampling(Struct, frozen=True):
    """How the next token is drawn. Temperature 0 is greedy; `seed` None draws one."""

    temperature: float = 0.6
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()


class FinishReason(StrEnum):
    STOP = "stop"
    LENGTH = "length"


class TokenUsage(Struct, frozen=True):
    """Exact counts. `cached_tokens` are the prompt tokens that were not computed again."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cached_tokens + other.cached_tokens,
        )

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class CompletionRequest(Struct, frozen=True):
    """One completion of one chat.

    `model` is the provider's own name for it. `max_tokens` None means: up to the
    model's room. Requests with the same non-empty `share_key` belong together
    (candidates of one prompt) and may share the computed prefix; others must not.
    """

    model: str
    messages: tuple[Message, ...]
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    share_key: str = ""


class TextDelta(Struct, frozen=True, tag="text"):
    """A piece of the answer: whole characters, never half of one."""

    text: str


class ToolCall(Struct, frozen=True, tag="tool_call"):
    """The model asks for a tool; `arguments` is the JSON text that it wrote."""

    id: str
    name: str
    arguments: str


class Finished(Struct, frozen=True, tag="finished"):
    """The last event of every stream that ended well."""

    reason: FinishReason
    usage: TokenUsage


CompletionEvent = TextDelta | ToolCall | Finished
