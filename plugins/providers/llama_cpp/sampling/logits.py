"""The logits of all tokens of a vocabulary, as llama.cpp's samplers take them."""

import ctypes
import math
from typing import Any

from plugins.providers.llama_cpp.native.bindings import Context, Model
from plugins.providers.llama_cpp.sampling.vocabulary import load_vocabulary

_FIELDS = 3  # id, logit, p: four bytes each


class LogitsArray:
    """A copy of one row of logits, and the llama_token_data_array that is filled from it.

    The copy stays valid when the context computes its next step. Filled without a loop in Python.
    """

    def __init__(self, model: Model) -> None:
        self._lib: Any = model.lib
        vocabulary = load_vocabulary(model)
        self._count, self._template = vocabulary.size, vocabulary.token_data
        self._row: Any = (ctypes.c_float * self._count)()
        self._buffer = ctypes.create_string_buffer(self._template, len(self._template))
        self._logits: Any = memoryview(self._buffer).cast("B").cast("f")[1::_FIELDS]
        self._entries: Any = ctypes.cast(self._buffer, self._lib.llama_token_data_p)
        self._array: Any = self._lib.llama_token_data_array(self._entries, self._count, -1, False)
        self._single: Any = (self._lib.llama_token_data * 1)()

    @property
    def size(self) -> int:
        """Number of tokens that the samplers applied so far have left."""
        return int(self._array.size)

    @property
    def total(self) -> int:
        """Number of tokens in the vocabulary."""
        return self._count

    @property
    def selected(self) -> int | None:
        """The token that the chain selected; None if it selected none or a forbidden one."""
        at = int(self._array.selected)
        if not 0 <= at < self.size:
            return None
        entry = self._entries[at]
        return int(entry.id) if entry.logit > -math.inf else None

    @property
    def values(self) -> list[float]:
        """The logits of the tokens that are left, in their order."""
        return self._logits[: self.size].tolist()

    def entry(self, at: int) -> Any:
        """llama_token_data at this index: `id`, `logit` and `p`."""
        return self._entries[at]

    def read(self, context: Context, row: int) -> None:
        """Copy the logits of this row of the last decode."""
        logits = self._lib.llama_get_logits_ith(context.handle, row)
        ctypes.memmove(self._row, logits, ctypes.sizeof(self._row))

    def fill(self) -> None:
        """All tokens of the vocabulary, in its order, with the logits that were read."""
        ctypes.memmove(self._buffer, self._template, len(self._template))
        self._logits[:] = memoryview(self._row).cast("B").cast("f")
        self._array.size, self._array.selected, self._array.sorted = self._count, -1, False

    def logit(self, token: int) -> float:
        """A token's logit as it was read."""
        return float(self._row[token])

    def apply(self, sampler: Any) -> None:
        """Let a sampler change, sort or select tokens."""
        self._lib.llama_sampler_apply(sampler, ctypes.byref(self._array))

    def mark_unsorted(self) -> None:
        """A sampler has forbidden some of the sorted tokens."""
        self._array.sorted = False

    def allows(self, sampler: Any, token: int) -> bool:
        """Whether a grammar sampler allows this token."""
        self._single[0].id, self._single[0].logit = token, 1.0
        one = self._lib.llama_token_data_array(self._single, 1, -1, False)
        self._lib.llama_sampler_apply(sampler, ctypes.byref(one))
        return self._single[0].logit > -math.inf
