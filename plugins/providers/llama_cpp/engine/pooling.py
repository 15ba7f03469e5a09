"""llama.cpp's context for embeddings: computes whole texts, one pooled vector per sequence."""

import ctypes
from typing import Any

from plugins.providers.llama_cpp.native.batch import Batch
from plugins.providers.llama_cpp.native.bindings import Model, NativeError

_POOLING_NONE, _POOLING_MEAN, _POOLING_RANK = 0, 1, 4
_FLOAT_BYTES = 4


class PoolingContext:
    """Computes up to `tokens` tokens of up to `sequences` texts in one step."""

    def __init__(self, model: Model, *, tokens: int, sequences: int, threads: int) -> None:
        """Raises NativeError if memory is too short, or if the model makes no embeddings."""
        self._lib = model.lib
        self.tokens = tokens
        self._handle = self._create_context(model, tokens, sequences, threads, None)
        if self._pooling_type == _POOLING_NONE:
            self._lib.llama_free(self._handle)
            self._handle = self._create_context(model, tokens, sequences, threads, _POOLING_MEAN)
        if self._pooling_type == _POOLING_RANK:
            raise NativeError("this model ranks texts; it makes no embeddings")
        self._memory: Any = self._lib.llama_get_memory(self._handle)
        self.dimensions = int(self._lib.llama_model_n_embd_out(model.handle))

    @property
    def _pooling_type(self) -> int:
        return int(self._lib.llama_pooling_type(self._handle))

    def compute(self, batch: Batch, sequences: int) -> list[bytes]:
        """The vectors of sequences 0 to `sequences` - 1. Raises NativeError."""
        if self._memory:
            self._lib.llama_memory_clear(self._memory, False)
        compute = self._lib.llama_decode if self._memory else self._lib.llama_encode
        if code := compute(self._handle, batch.raw):
            raise NativeError(f"llama.cpp failed to compute (code {code})")
        return [self._vector(sequence) for sequence in range(sequences)]

    def _vector(self, sequence: int) -> bytes:
        vector = self._lib.llama_get_embeddings_seq(self._handle, sequence)
        if not vector:
            raise NativeError("llama.cpp returned no vector for a text")
        return ctypes.string_at(vector, self.dimensions * _FLOAT_BYTES)

    def _create_context(
        self, model: Model, tokens: int, sequences: int, threads: int, pooling: int | None
    ) -> Any:
        params = self._lib.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = tokens
        params.n_seq_max = sequences
        params.n_threads = params.n_threads_batch = threads
        params.embeddings = params.kv_unified = True
        if pooling is not None:
            params.pooling_type = pooling
        handle = self._lib.llama_init_from_model(model.handle, params)
        if not handle:
            raise NativeError(
                f"llama.cpp can't create a context of {tokens} tokens for this model, most "
                "likely for lack of memory: lower models.context_tokens"
            )
        return handle
