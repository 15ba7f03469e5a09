"""What occupies the engine's memory: prefixes to share, and answers being written."""

from collections.abc import Sequence as Tokens

from appliance.domain.messages import CompletionRequest, FinishReason, TokenUsage
from plugins.providers.llama_cpp.sampling import Sampler
from plugins.providers.llama_cpp.text import TextStream


class Job:
    """One request on its way through the engine. `cancelled` may be set by any thread."""

    def __init__(self, number: int, request: CompletionRequest) -> None:
        self.number = number
        self.request = request
        self.tokens: list[int] = []
        self.cancelled = False

    @property
    def max_tokens(self) -> int | None:
        return self.request.max_tokens

    @property
    def owner(self) -> str:
        return self.request.owner


class Lane:
    """Tokens of one sequence id of llama.cpp, the first `position` of them computed.

    The first `base_length` tokens are not computed here but shared from `base`, as
    soon as that has them. `reserved` are the cells that the lane may fill itself.
    """

    def __init__(
        self, slot: int, tokens: list[int], base: "Prefix | None", base_length: int
    ) -> None:
        self.slot = slot
        self.tokens = tokens
        self.base = base
        self.base_length = base_length
        self.position = 0
        self.reserved = len(tokens) - base_length
        self.attached = base is None
        if base is not None:
            base.users += 1

    @property
    def pending(self) -> int:
        """Tokens still to compute."""
        return len(self.tokens) - self.position

    def release(self) -> None:
        """No longer hold on to the shared part."""
        if self.base is not None:
            self.base.users -= 1
            self.base = None


class Prefix(Lane):
    """A prompt's tokens but the last, kept for all requests of its share key.

    The last token is left out because each sequence needs the logits that follow it.
    """

    def __init__(
        self, slot: int, tokens: list[int], key: str, base: "Prefix | None", base_length: int
    ) -> None:
        super().__init__(slot, tokens, base, base_length)
        self.key = key
        self.users = 0
        self.charged = False
        self.last_used = 0

    def charge(self) -> int:
        """The tokens that the next user of the whole prefix gets without computing them.

        The first user pays for what had to be computed, so that the counts of all
        users together say what the machine did.
        """
        cached = len(self.tokens) if self.charged else self.base_length
        self.charged = True
        return cached


class Sequence(Lane):
    """One answer: the prompt, then the tokens drawn so far."""

    def __init__(
        self,
        slot: int,
        job: Job,
        base: Prefix | None,
        base_length: int,
        *,
        allowance: int,
        sampler: Sampler,
        stops: tuple[str, ...],
    ) -> None:
        super().__init__(slot, list(job.tokens), base, base_length)
        self.job = job
        self.allowance = allowance
        self.reserved += allowance
        self.sampler = sampler
        self.text = TextStream((*job.request.sampling.stop, *stops))
        self.cached = 0
        self.generated = 0
        self.finished: FinishReason | None = None

    @property
    def decoding(self) -> bool:
        """Whether the prompt is done and one drawn token waits to be computed."""
        return self.generated > 0

    def grow(self, cells: int) -> None:
        """Allow so many more tokens."""
        self.allowance += cells
        self.reserved += cells

    def usage(self) -> TokenUsage:
        """Exact counts; the token that ended the answer is one of the completion's."""
        return TokenUsage(
            prompt_tokens=len(self.job.tokens),
            completion_tokens=self.generated,
            cached_tokens=self.cached,
        )


def common_length(left: Tokens[int], right: Tokens[int]) -> int:
    """How many tokens both begin with."""
    for at, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return at
    return min(len(left), len(right))
