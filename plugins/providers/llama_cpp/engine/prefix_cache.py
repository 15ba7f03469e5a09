"""The prefix cache: a token trie whose nodes are sequence ids of llama.cpp.

Each node knows all its tokens from the first on and the node that it goes on from;
cells of a common beginning exist once. Nodes that no answer needs stay until their
room is wanted; then those go first that were longest unused, from the leaves inwards.
"""

from typing import Protocol

from plugins.providers.llama_cpp.engine.sequences import Job, Lane, Prefix, Sequence, common_length

# A shorter common beginning is computed again sooner than it is looked after.
SHORTEST_SHARED = 16


class Memory(Protocol):
    """What the cache does to the context's memory."""

    def copy(self, source: int, target: int, length: int) -> None: ...

    def remove(self, sequence: int) -> None: ...


class Prefixes:
    """The nodes, and which of them a job may start from.

    `slots` are the sequence ids that nobody uses; the room takes from the same list. A
    memory that is not `divisible` can be shared as a whole only.
    """

    def __init__(self, memory: Memory, slots: list[int], *, divisible: bool) -> None:
        self.nodes: list[Prefix] = []
        self.divisible = divisible
        self._memory, self._slots = memory, slots
        self._clock = 0

    @property
    def reserved(self) -> int:
        """Cells of all nodes together."""
        return sum(node.reserved for node in self.nodes)

    def nearest(self, job: Job) -> tuple[Prefix | None, int]:
        """The node with the longest beginning that the job may share, and its length."""
        best: tuple[Prefix | None, int] = (None, 0)
        rank = (SHORTEST_SHARED - 1, False)
        for node in self.nodes:
            common = common_length(node.tokens, job.tokens, _limit(node, job))
            # The node that holds the last common token itself, not one further out.
            found = (common, common > node.base_length)
            if found > rank and (self.divisible or common == len(node.tokens)):
                best, rank = (node, common), found
        return best

    def add(self, tokens: list[int], job: Job, lane: tuple[Prefix | None, int]) -> Prefix:
        """A node for a job's tokens, still to be computed; shared if all of them are."""
        base, length = lane
        shared = len(tokens) <= job.shared_tokens
        node = Prefix(self._slots.pop(), tokens, job.owner, base, length, shared=shared)
        self.nodes.append(node)
        self.touch(node)
        return node

    def cut(self, node: Prefix, length: int) -> Prefix:
        """A node of the first `length` tokens, where this one has more and an id is free.

        So an answer holds on to what it shares, and not to the rest.
        """
        if not node.base_length < length < len(node.tokens) or node.pending or not self._slots:
            return node
        slot, shared = self._slots.pop(), node.shared
        self._memory.copy(node.slot, slot, length)
        head = Prefix(
            slot, node.tokens[:length], node.owner, node.base, node.base_length, shared=shared
        )
        node.rest_on(head, length)
        self.nodes.append(head.computed())
        self.touch(head)
        return head

    def keep(self, answer: Sequence) -> bool:
        """Turn a finished answer into a node, if it is worth it. Its id then belongs to that."""
        tokens = answer.tokens[: answer.position]
        if not self._worth_keeping(answer, tokens):
            return False
        node = Prefix(answer.slot, tokens, answer.owner, answer.base, answer.base_length)
        answer.release()
        self.nodes.append(node.computed())
        self.touch(node)
        self._absorb(node)
        return True

    def touch(self, node: Prefix) -> None:
        """It was used now."""
        self._clock += 1
        node.last_used = self._clock

    def evict(self, *, sparing: Prefix | None = None, keeping: Prefix | None = None) -> bool:
        """Drop the idle node that was longest unused: `sparing` as the last, `keeping` never."""
        idle = [node for node in self.nodes if not node.users and node is not keeping]
        if not idle:
            return False
        self._drop(min(idle, key=lambda node: (node is sparing, node.last_used)))
        return True

    def drop_unfinished(self, node: Prefix | None) -> None:
        """Drop what nobody finished or waits for, from this node inwards."""
        while node is not None and not node.users and node.pending:
            node = self._drop(node)

    def _worth_keeping(self, answer: Sequence, tokens: list[int]) -> bool:
        if not (answer.owner and answer.whole and answer.attached):
            return False
        if len(tokens) - answer.base_length < SHORTEST_SHARED:
            return False
        return not any(
            node.owner == answer.owner and common_length(node.tokens, tokens) == len(tokens)
            for node in self.nodes
        )

    def _absorb(self, node: Prefix) -> None:
        """Take over the nodes that only this one goes on from, so that a chat stays one node."""
        while self.divisible and (base := node.base) is not None:
            if base.users > 1 or base.shared or base.pending or not node.on_whole_base:
                return
            node.rest_on(base.base, base.base_length)
            self._drop(base)

    def _drop(self, node: Prefix) -> Prefix | None:
        """Forget a node; returns what it went on from."""
        base = node.base
        node.release()
        self.nodes.remove(node)
        self._slots.append(node.slot)
        self._memory.remove(node.slot)
        return base


def can_start(lane: Lane) -> bool:
    """Whether the shared beginning of a lane is computed, so that the lane can go on."""
    base = lane.base
    if base is None:
        return True
    return not base.pending if lane.on_whole_base else base.position >= lane.base_length


def _limit(node: Prefix, job: Job) -> int:
    """How many of its tokens a job may share with this node: not its last, and not others' text."""
    if node.owner == job.owner != "":
        return len(job.tokens) - 1
    return min(job.shared_tokens, len(job.tokens) - 1) if node.shared else 0
