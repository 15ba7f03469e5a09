"""All tokens of a vocabulary with their logits, as llama.cpp's samplers take them."""

import ctypes
import math
from typing import Any

from plugins.providers.llama_cpp.native.bindings import Context, Model
from plugins.providers.llama_cpp.sampling.vocabulary import vocabulary

_FIELDS = 3  # id, logit, p: four bytes each


class Candidates:
    """A buffer for one position at a time; filled without a loop in Python."""

    def __init__(self, model: Model) -> None:
        self._lib: Any = model.lib
        known = vocabulary(model)
        self._count, self._pristine = known.size, known.candidates
        self._buffer = ctypes.create_string_buffer(self._pristine, len(self._pristine))
        self._logits = memoryview(self._buffer).cast("B").cast("f")[1::_FIELDS]
        self._row: Any = ctypes.POINTER(ctypes.c_float * self._count)
        self._entries: Any = ctypes.cast(self._buffer, self._lib.llama_token_data_p)
        self._array: Any = self._lib.llama_token_data_array(self._entries, self._count, -1, False)
        self._single: Any = (self._lib.llama_token_data * 1)()

    @property
    def size(self) -> int:
        """How many candidates the samplers applied so far have left."""
        return int(self._array.size)

    @property
    def selected(self) -> int | None:
        """The token that the chain chose; None if it chose one that is forbidden, or none."""
        at = int(self._array.selected)
        if not 0 <= at < self.size:
            return None
        entry = self._entries[at]
        return int(entry.id) if entry.logit > -math.inf else None

    def entry(self, at: int) -> Any:
        """The candidate in this place: `id`, `logit` and `p`."""
        return self._entries[at]

    def fill(self, context: Context, row: int) -> None:
        """Every token of the vocabulary, in its order, with the raw logits of this row."""
        ctypes.memmove(self._buffer, self._pristine, len(self._pristine))
        logits = ctypes.cast(self._lib.llama_get_logits_ith(context.handle, row), self._row)
        self._logits[:] = memoryview(logits.contents).cast("B").cast("f")
        self._array.size, self._array.selected, self._array.sorted = self._count, -1, False

    def logit(self, token: int) -> float:
        """A token's logit, as long as nothing was applied since `fill`."""
        return float(self._entries[token].logit)

    def apply(self, sampler: Any) -> None:
        """Let a sampler change, sort or select."""
        self._lib.llama_sampler_apply(sampler, ctypes.byref(self._array))

    def allows(self, sampler: Any, token: int) -> bool:
        """Whether a sampler, which is one of grammar, leaves this token."""
        self._single[0].id, self._single[0].logit = token, 1.0
        one = self._lib.llama_token_data_array(self._single, 1, -1, False)
        self._lib.llama_sampler_apply(sampler, ctypes.byref(one))
        return self._single[0].logit > -math.inf
