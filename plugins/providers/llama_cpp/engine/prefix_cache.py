"""The prefix cache: a token trie whose nodes are slots (sequence ids) of llama.cpp.

Each node holds all its tokens from the first on, and the node that it continues; the cells of
a common prefix exist once. Nodes that no answer uses stay until their cells or slots are
needed; the least recently used go first, from the leaves inwards.
"""

from plugins.providers.llama_cpp.engine.sequences import Job, Prefix, Sequence
from plugins.providers.llama_cpp.native.bindings import Context
from plugins.providers.llama_cpp.native.tokens import common_prefix_length

# Computing a shorter prefix again costs less than managing it.
MIN_SHARED_TOKENS = 16


class PrefixCache:
    """The nodes, and which of them a job may start from.

    `free_slots` is the KV cache's own list. Where the context is not `divisible`, only a whole
    prefix can be shared.
    """

    def __init__(self, context: Context, free_slots: list[int], *, divisible: bool) -> None:
        self.nodes: list[Prefix] = []
        self.divisible = divisible
        self._context, self._free_slots = context, free_slots
        self._clock = 0

    @property
    def reserved(self) -> int:
        """Cells of all nodes together."""
        return sum(node.reserved for node in self.nodes)

    def find_longest(self, job: Job) -> tuple[Prefix | None, int]:
        """The node with the longest prefix that the job may share, and its length."""
        best: tuple[Prefix | None, int] = (None, 0)
        best_rank = (MIN_SHARED_TOKENS - 1, False)
        for node in self.nodes:
            limit = _max_shared_tokens(node, job)
            common = common_prefix_length(node.tokens, job.tokens, limit)
            # Prefer the node that holds the last common token itself to its descendants.
            rank = (common, common > node.base_length)
            if rank > best_rank and (self.divisible or common == len(node.tokens)):
                best, best_rank = (node, common), rank
        return best

    def add(self, tokens: list[int], job: Job, base: Prefix | None, base_length: int) -> Prefix:
        """A node for these tokens of a job, still to be computed; shared if all of them are."""
        shared = len(tokens) <= job.shared_tokens
        slot = self._free_slots.pop()
        node = Prefix(slot, tokens, job.owner, base, base_length, shared=shared)
        self.nodes.append(node)
        self.touch(node)
        return node

    def split(self, node: Prefix, length: int) -> Prefix:
        """A node of the first `length` tokens, if this one has more and a slot is free.

        An answer then keeps only what it shares from being evicted, and not the rest.
        """
        if not node.base_length < length < len(node.tokens) or node.pending or not self._free_slots:
            return node
        slot, shared = self._free_slots.pop(), node.shared
        self._context.copy(node.slot, slot, length)
        head = Prefix(
            slot, node.tokens[:length], node.owner, node.base, node.base_length, shared=shared
        )
        node.change_base(head, length)
        self.nodes.append(head.mark_computed())
        self.touch(head)
        return head

    def keep(self, sequence: Sequence) -> bool:
        """Turn a finished answer into a node, which takes over its slot; False if not worth it."""
        tokens = sequence.tokens[: sequence.position]
        if not self._is_worth_keeping(sequence, tokens):
            return False
        node = Prefix(sequence.slot, tokens, sequence.owner, sequence.base, sequence.base_length)
        sequence.release_base()
        self.nodes.append(node.mark_computed())
        self.touch(node)
        self._merge_ancestors(node)
        return True

    def touch(self, node: Prefix) -> None:
        """Mark it as the most recently used."""
        self._clock += 1
        node.last_used = self._clock

    def evict(self, *, last: Prefix | None = None, never: Prefix | None = None) -> bool:
        """Remove the least recently used idle node; False if there is none.

        `last` goes only if no other node is idle, `never` does not go.
        """
        idle = [node for node in self.nodes if not node.users and node is not never]
        if not idle:
            return False
        self._remove(min(idle, key=lambda node: (node is last, node.last_used)))
        return True

    def remove_unfinished(self, node: Prefix | None) -> None:
        """Remove nodes that are not computed and have no user, from this one inwards."""
        while node is not None and not node.users and node.pending:
            node = self._remove(node)

    def _is_worth_keeping(self, sequence: Sequence, tokens: list[int]) -> bool:
        if not sequence.owner or sequence.shifted or not sequence.attached:
            return False
        if len(tokens) - sequence.base_length < MIN_SHARED_TOKENS:
            return False
        return not any(
            node.owner == sequence.owner
            and common_prefix_length(node.tokens, tokens) == len(tokens)
            for node in self.nodes
        )

    def _merge_ancestors(self, node: Prefix) -> None:
        """Take over bases that only this node uses, so that a chat stays one node."""
        while self.divisible and (base := node.base) is not None:
            if base.users > 1 or base.shared or base.pending or not node.uses_whole_base:
                return
            node.change_base(base.base, base.base_length)
            self._remove(base)

    def _remove(self, node: Prefix) -> Prefix | None:
        """Returns the base of the node."""
        base = node.base
        node.release_base()
        self.nodes.remove(node)
        self._free_slots.append(node.slot)
        self._context.remove(node.slot)
        return base


def _max_shared_tokens(node: Prefix, job: Job) -> int:
    """How many tokens a job may share with a node: not its last, and no other owner's text."""
    if node.owner == job.owner != "":
        return len(job.tokens) - 1
    return min(job.shared_tokens, len(job.tokens) - 1) if node.shared else 0
