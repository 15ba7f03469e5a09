"""Jobs, and what they occupy in the KV cache: prefixes to share and answers being generated."""

from appliance.domain.messages import CompletionRequest, FinishReason, TokenUsage
from plugins.providers.llama_cpp.engine.sampling_pool import PendingSample
from plugins.providers.llama_cpp.sampling.detokenizer import TextStream
from plugins.providers.llama_cpp.sampling.sampler import Sampler
from plugins.providers.llama_cpp.speculation.drafter import Drafter


class Job:
    """One request on its way through the engine. Any thread may set `cancelled`.

    `counts_only`: only the number of its prompt's tokens is asked for.
    The first `shared_tokens` tokens are the appliance's own system message, whose cells may
    serve every owner. The first `kept_tokens` stay when a context shift drops the oldest text.
    """

    def __init__(
        self, number: int, request: CompletionRequest, *, counts_only: bool = False
    ) -> None:
        self.number = number
        self.counts_only = counts_only
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


class CacheEntry:
    """The tokens of one slot (sequence id of llama.cpp); the first `position` are computed.

    The first `base_length` tokens are not computed here: the entry gets their cells from `base`
    (`attached`) once those are computed. `reserved` counts the cells that the entry may fill
    itself. Its computation counts for `owner`.
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
        """Number of tokens still to compute."""
        return len(self.tokens) - self.position

    @property
    def uses_whole_base(self) -> bool:
        """Whether it continues exactly where its base ends."""
        return self.base is not None and self.base_length == len(self.base.tokens)

    @property
    def base_ready(self) -> bool:
        """Whether the shared tokens are computed, so that this entry can be computed."""
        if self.base is None:
            return True
        if self.uses_whole_base:
            return not self.base.pending
        return self.base.position >= self.base_length

    def release_base(self) -> None:
        if self.base is not None:
            self.base.users -= 1
            self.base = None


class Prefix(CacheEntry):
    """A node of the prefix trie, kept for later requests of its owner, or of all if `shared`.

    The prefix of a prompt lacks the prompt's last token, because each sequence needs the logits
    that follow that token.
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

    def change_base(self, base: "Prefix | None", length: int) -> None:
        """Share the first `length` tokens with another base, which has computed them too."""
        self.release_base()
        self.base, self.base_length = base, length
        self.reserved = len(self.tokens) - length
        if base is not None:
            base.users += 1

    def mark_computed(self) -> "Prefix":
        """All tokens are in the cache and counted; returns this prefix."""
        self.position, self.attached, self.charged = len(self.tokens), True, True
        return self

    def charge(self) -> int:
        """Number of cached tokens to report for the next user of the whole prefix.

        The first user is charged for the tokens that had to be computed, so that the usage of
        all users together equals the work done.
        """
        if self.charged:
            return len(self.tokens)
        self.charged = True
        return self.base.charge() if self.base and self.uses_whole_base else self.base_length


class Sequence(CacheEntry):
    """One answer: the prompt, then the tokens sampled so far.

    `pending_sample` is the next token while a worker thread samples it.

    `allowance` is how many tokens its cells suffice for. `shifted`: the cache no longer starts
    with the prompt's first tokens. `draft` holds the draft tokens that the current step computes
    behind the last sampled one; they come from `drafter`, if there is one.
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
        self.pending_sample: PendingSample | None = None
        self.text = TextStream((*job.request.sampling.stop, *stops))
        self.cached_tokens = 0
        self.prompt_reported = False
        self.generated_tokens = 0
        self.shifted = False
        self.drafter: Drafter | None = None
        self.draft: list[int] = []
        self.drafted_tokens = self.accepted_tokens = 0
        self.finish_reason: FinishReason | None = None

    @property
    def decoding(self) -> bool:
        """Whether the prompt is computed and a sampled token waits to be computed."""
        return self.generated_tokens > 0 and self.pending_sample is None

    @property
    def interrupted(self) -> bool:
        """Whether no token can be sampled now: it has ended, or a worker thread samples one."""
        return self.finish_reason is not None or self.pending_sample is not None

    @property
    def remaining_tokens(self) -> int:
        """How many more tokens its cells and its request allow."""
        limit = self.job.max_tokens
        allowed = self.allowance if limit is None else min(limit, self.allowance)
        return allowed - self.generated_tokens

    @property
    def reached_limit(self) -> bool:
        """Whether it has all the tokens that its request asked for."""
        limit = self.job.max_tokens
        return limit is not None and self.generated_tokens >= limit

    def close_sampler(self) -> None:
        """Free the sampler, or let the worker thread that uses it do so."""
        if self.pending_sample is None:
            self.sampler.close()
        else:
            self.pending_sample.close()

    def extend_allowance(self, tokens: int) -> None:
        self.allowance += tokens
        self.reserved += tokens

    def drop_tokens(self, start: int, count: int) -> None:
        """A context shift removed these computed tokens; their cells take new ones."""
        del self.tokens[start : start + count]
        self.position -= count
        self.allowance += count
        self.shifted = True
        if self.drafter is not None:
            self.drafter.reset_positions()

    def usage(self) -> TokenUsage:
        """Exact counts; the token that ended the answer is one of the completion's."""
        return TokenUsage(
            prompt_tokens=len(self.job.tokens),
            completion_tokens=self.generated_tokens,
            cached_tokens=self.cached_tokens,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
        )

    def take_prompt_usage(self) -> TokenUsage | None:
        """The usage of the computed prompt; None from the second call on."""
        if self.prompt_reported:
            return None
        self.prompt_reported = True
        return TokenUsage(len(self.job.tokens), 0, self.cached_tokens)

    def usage_so_far(self) -> TokenUsage:
        """Usage of an answer that is cancelled: of the prompt only what was computed."""
        usage = self.usage()
        if self.generated_tokens:
            return usage
        return TokenUsage(min(self.position, usage.prompt_tokens), 0, self.cached_tokens)
