"""The logits of all tokens of a vocabulary, as llama.cpp's samplers take them."""

import ctypes
import math
from typing import Any

from plugins.providers.llama_cpp.native.bindings import Context, Model
from plugins.providers.llama_cpp.sampling.vocabulary import load_vocabulary

_FIELDS = 3  # id, logit, p: four bytes each


class LogitsArray:
    """llama_token_data_array for one position at a time; filled without a loop in Python."""

    def __init__(self, model: Model) -> None:
        self._lib: Any = model.lib
        vocabulary = load_vocabulary(model)
        self._count, self._template = vocabulary.size, vocabulary.token_data
        self._buffer = ctypes.create_string_buffer(self._template, len(self._template))
        self._logits = memoryview(self._buffer).cast("B").cast("f")[1::_FIELDS]
        self._row: Any = ctypes.POINTER(ctypes.c_float * self._count)
        self._entries: Any = ctypes.cast(self._buffer, self._lib.llama_token_data_p)
        self._array: Any = self._lib.llama_token_data_array(self._entries, self._count, -1, False)
        self._single: Any = (self._lib.llama_token_data * 1)()

    @property
    def size(self) -> int:
        """Number of tokens that the samplers applied so far have left."""
        return int(self._array.size)

    @property
    def selected(self) -> int | None:
        """The token that the chain selected; None if it selected none or a forbidden one."""
        at = int(self._array.selected)
        if not 0 <= at < self.size:
            return None
        entry = self._entries[at]
        return int(entry.id) if entry.logit > -math.inf else None

    def entry(self, at: int) -> Any:
        """llama_token_data at this index: `id`, `logit` and `p`."""
        return self._entries[at]

    def fill(self, context: Context, row: int) -> None:
        """All tokens of the vocabulary, in its order, with the raw logits of this row."""
        ctypes.memmove(self._buffer, self._template, len(self._template))
        logits = ctypes.cast(self._lib.llama_get_logits_ith(context.handle, row), self._row)
        self._logits[:] = memoryview(logits.contents).cast("B").cast("f")
        self._array.size, self._array.selected, self._array.sorted = self._count, -1, False

    def logit(self, token: int) -> float:
        """A token's logit; valid only before a sampler is applied."""
        return float(self._entries[token].logit)

    def apply(self, sampler: Any) -> None:
        """Let a sampler change, sort or select tokens."""
        self._lib.llama_sampler_apply(sampler, ctypes.byref(self._array))

    def allows(self, sampler: Any, token: int) -> bool:
        """Whether a grammar sampler allows this token."""
        self._single[0].id, self._single[0].logit = token, 1.0
        one = self._lib.llama_token_data_array(self._single, 1, -1, False)
        self._lib.llama_sampler_apply(sampler, ctypes.byref(one))
        return self._single[0].logit > -math.inf
