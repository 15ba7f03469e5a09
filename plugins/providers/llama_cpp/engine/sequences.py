"""What occupies the engine's memory: prefixes to share, and answers being written."""

from appliance.domain.messages import CompletionRequest, FinishReason, TokenUsage
from plugins.providers.llama_cpp.sampling.detokenizer import TextStream
from plugins.providers.llama_cpp.sampling.sampler import Sampler
from plugins.providers.llama_cpp.speculation.drafter import Drafter

_STRIDE = 256


class Job:
    """One request on its way through the engine. `cancelled` may be set by any thread.

    The first `shared_tokens` of its tokens are the box's own system message, whose
    computed memory may serve every owner. The first `kept_tokens` stay where the oldest
    text is forgotten.
    """

    def __init__(self, number: int, request: CompletionRequest) -> None:
        self.number = number
        self.request = request
        self.tokens: list[int] = []
        self.shared_tokens = 0
        self.kept_tokens = 0
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
    `owner` is whose turn its computation takes.
    """

    def __init__(
        self, slot: int, tokens: list[int], owner: str, base: "Prefix | None", base_length: int
    ) -> None:
        self.slot = slot
        self.tokens = tokens
        self.owner = owner
        self.base: Prefix | None = base
        self.base_length = base_length
        self.position: int = 0
        self.reserved: int = len(tokens) - base_length
        self.attached = base is None
        if base is not None:
            base.users += 1

    @property
    def pending(self) -> int:
        """Tokens still to compute."""
        return len(self.tokens) - self.position

    @property
    def on_whole_base(self) -> bool:
        """Whether it goes on exactly where its base ends."""
        return self.base is not None and self.base_length == len(self.base.tokens)

    def release(self) -> None:
        """No longer hold on to the shared part."""
        if self.base is not None:
            self.base.users -= 1
            self.base = None


class Prefix(Lane):
    """Tokens kept for later requests: of the same owner, or of all if `shared`.

    A prompt's last token is left out of its prefix, because each sequence needs the
    logits that follow it.
    """

    def __init__(
        self,
        slot: int,
        tokens: list[int],
        owner: str,
        base: "Prefix | None",
        base_length: int,
        *,
        shared: bool = False,
    ) -> None:
        super().__init__(slot, tokens, owner, base, base_length)
        self.shared = shared
        self.users = 0
        self.charged = False
        self.last_used = 0

    def rest_on(self, base: "Prefix | None", length: int) -> None:
        """Share the first `length` tokens from another base, which has them computed too."""
        self.release()
        self.base, self.base_length = base, length
        self.reserved = len(self.tokens) - length
        if base is not None:
            base.users += 1

    def computed(self) -> "Prefix":
        """This prefix, all of whose tokens are in the memory and paid for."""
        self.position, self.attached, self.charged = len(self.tokens), True, True
        return self

    def charge(self) -> int:
        """The tokens that the next user of the whole prefix gets without computing them.

        The first user pays for what had to be computed, so that the counts of all
        users together say what the machine did.
        """
        if self.charged:
            return len(self.tokens)
        self.charged = True
        return self.base.charge() if self.base and self.on_whole_base else self.base_length


class Sequence(Lane):
    """One answer: the prompt, then the tokens drawn so far.

    `allowance` is how many tokens it may draw with the cells that it has. `whole` says
    that the memory still begins with the prompt's first token. `draft` are the tokens that
    the running step tries behind the last one drawn, where its `drafter` foretells any.
    """

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
        super().__init__(slot, list(job.tokens), job.owner, base, base_length)
        self.job = job
        self.allowance = allowance
        self.reserved += allowance
        self.sampler = sampler
        self.text = TextStream((*job.request.sampling.stop, *stops))
        self.cached = 0
        self.generated = 0
        self.whole = True
        self.drafter: Drafter | None = None
        self.draft: list[int] = []
        self.drafted = self.accepted = 0
        self.finished: FinishReason | None = None

    @property
    def decoding(self) -> bool:
        """Whether the prompt is done and one drawn token waits to be computed."""
        return self.generated > 0

    @property
    def left(self) -> int:
        """How many more tokens it may draw with the cells that it has."""
        limit = self.job.max_tokens
        most = self.allowance if limit is None else min(limit, self.allowance)
        return most - self.generated

    @property
    def ended_by_limit(self) -> bool:
        """Whether it has drawn all the tokens that its request asked for."""
        limit = self.job.max_tokens
        return limit is not None and self.generated >= limit

    def grow(self, cells: int) -> None:
        """Allow so many more tokens."""
        self.allowance += cells
        self.reserved += cells

    def forget(self, start: int, count: int) -> None:
        """So many computed tokens are gone from the memory; their cells take new ones."""
        del self.tokens[start : start + count]
        self.position -= count
        self.allowance += count
        self.whole = False
        if self.drafter is not None:
            self.drafter.forget()

    def used(self) -> TokenUsage:
        """As `usage`, of an answer that has not ended: only what was read of the prompt counts."""
        whole = self.usage()
        if self.generated:
            return whole
        return TokenUsage(min(self.position, whole.prompt_tokens), 0, self.cached)

    def usage(self) -> TokenUsage:
        """Exact counts; the token that ended the answer is one of the completion's."""
        return TokenUsage(
            prompt_tokens=len(self.job.tokens),
            completion_tokens=self.generated,
            cached_tokens=self.cached,
            drafted_tokens=self.drafted,
            accepted_tokens=self.accepted,
        )


def common_length(left: list[int], right: list[int], limit: int | None = None) -> int:
    """How many tokens both begin with, at most `limit`."""
    end = min(len(left), len(right), len(right) if limit is None else limit)
    at = 0
    while at < end and left[at : min(at + _STRIDE, end)] == right[at : min(at + _STRIDE, end)]:
        at = min(at + _STRIDE, end)
    while at < end and left[at] == right[at]:
        at += 1
    return at
