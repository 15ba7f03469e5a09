"""The tokens of one decode step, as llama.cpp takes them."""

import ctypes
from typing import Any


class Batch:
    """llama_batch; `counts` holds the number of tokens per sequence.

    The arrays are ctypes arrays written in slices: a loop over ctypes pointers would cost some
    microseconds per token.
    """

    def __init__(self, lib: Any, capacity: int) -> None:
        self._token, self._pos, self._seq = ((ctypes.c_int32 * capacity)() for _ in range(3))
        self._logits = (ctypes.c_int8 * capacity)()
        self._count = (ctypes.c_int32 * capacity)(*([1] * capacity))
        first, size = ctypes.addressof(self._seq), ctypes.sizeof(ctypes.c_int32)
        addresses = (ctypes.c_void_p * capacity)(*(first + size * at for at in range(capacity)))
        self._addresses = addresses
        self.raw: Any = lib.llama_batch()
        for name, array in {
            "token": self._token,
            "pos": self._pos,
            "n_seq_id": self._count,
            "seq_id": addresses,
            "logits": self._logits,
        }.items():
            setattr(self.raw, name, ctypes.cast(array, getattr(self.raw, name).__class__))
        self._own = list(addresses)
        self._shared: list[Any] = []
        self.size = 0
        self.counts: dict[int, int] = {}

    def clear(self) -> None:
        for row in range(self.size if self._shared else 0):
            self._addresses[row], self._count[row] = self._own[row], 1
        self._shared.clear()
        self.size = self.raw.n_tokens = 0
        self.counts.clear()

    def add(self, token: int, position: int, sequence: int, *, wants_logits: bool) -> int:
        """Append one token; returns its row."""
        return self.extend([token], position, sequence, wants_logits=wants_logits)

    def extend_with_logits(self, tokens: list[int], position: int, sequence: int) -> int:
        """Append tokens of a sequence, computing the logits of each; returns the first's row."""
        first = self.size
        self.extend(tokens, position, sequence, wants_logits=True)
        self._logits[first : self.size] = [1] * len(tokens)
        return first

    def extend(self, tokens: list[int], position: int, sequence: int, *, wants_logits: bool) -> int:
        """Append tokens of a sequence from this position on; returns the last one's row.

        Computes the logits of the last token only, or of none.
        """
        start, end = self.size, self.size + len(tokens)
        self._token[start:end] = tokens
        self._pos[start:end] = range(position, position + len(tokens))
        self._seq[start:end] = [sequence] * len(tokens)
        self._logits[start:end] = [0] * len(tokens)
        self._logits[end - 1] = wants_logits
        self.counts[sequence] = self.counts.get(sequence, 0) + len(tokens)
        self.size = self.raw.n_tokens = end
        return end - 1

    def share_rows(self, count: int, sequence: int, others: list[int]) -> None:
        """The last `count` tokens, which belong to this sequence, belong to the others too."""
        ids = (ctypes.c_int32 * (1 + len(others)))(sequence, *others)
        self._shared.append(ids)
        for row in range(self.size - count, self.size):
            self._addresses[row], self._count[row] = ctypes.addressof(ids), len(ids)

    def free(self) -> None:
        """Free the memory; the batch can't be used any more."""
        self.raw = None
