"""Hands the cells of a computed prefix to the answers and longer prefixes that wait for it.

An entry gets them as soon as the prefix is computed. An answer that lacks only its own last
token then joins the very step that completes the prefix: the last tokens of the prefix are
computed for all waiting answers at once, together with their own last tokens. A step with one
row costs almost as much as one with a few more, so this shortens the time to the first token.
"""

from plugins.providers.llama_cpp.engine.kv_cache import KvCache
from plugins.providers.llama_cpp.engine.sequences import CacheEntry, Prefix, Sequence
from plugins.providers.llama_cpp.native.batch import Batch
from plugins.providers.llama_cpp.native.bindings import Context


class PrefixAttacher:
    """Lets entries share the cells of their base."""

    def __init__(self, context: Context, kv_cache: KvCache) -> None:
        self._context, self._kv_cache = context, kv_cache
        self._joined: list[Sequence] = []

    def attach_ready(self) -> None:
        """Attach every entry whose base is computed; starts a new step."""
        self._joined = []
        for entry in self._kv_cache.entries:
            if entry.attached or entry.base is None or not entry.base_ready:
                continue
            if entry.uses_whole_base:
                self._context.copy_all(entry.base.slot, entry.slot)
            else:
                self._context.copy(entry.base.slot, entry.slot, entry.base_length)
            self._mark_attached(entry, entry.base)

    def join_step(self, prefix: Prefix, batch: Batch, count: int, spare: int) -> list[Sequence]:
        """Attach at most `spare` answers to the prefix that the last `count` rows complete.

        They share these rows; the caller adds their last tokens.
        """
        if prefix.pending or not self._kv_cache.prefixes.divisible:
            return []
        waiting = [each for each in self._kv_cache.sequences if _lacks_one_token(each, prefix)]
        waiting = waiting[:spare]
        for sequence in waiting:
            self._context.copy(prefix.slot, sequence.slot, prefix.position - count)
            self._mark_attached(sequence, prefix)
        if waiting:
            batch.share_rows(count, prefix.slot, [sequence.slot for sequence in waiting])
        self._joined += waiting
        return waiting

    def undo_join(self) -> None:
        """The step was not computed: the answers that joined it wait again."""
        for sequence in self._joined:
            if sequence in self._kv_cache.sequences:
                self._context.remove(sequence.slot)
                if sequence.base is not None and sequence.cached_tokens < sequence.base_length:
                    sequence.base.charged = False
                sequence.attached, sequence.position, sequence.cached_tokens = False, 0, 0
        self._joined = []

    def _mark_attached(self, entry: CacheEntry, base: Prefix) -> None:
        entry.attached, entry.position = True, entry.base_length
        self._kv_cache.prefixes.touch(base)
        if isinstance(entry, Sequence):
            whole = entry.uses_whole_base
            entry.cached_tokens = base.charge() if whole else entry.base_length


def _lacks_one_token(sequence: Sequence, prefix: Prefix) -> bool:
    waits = sequence.base is prefix and sequence.uses_whole_base and not sequence.attached
    return waits and len(sequence.tokens) == sequence.base_length + 1
