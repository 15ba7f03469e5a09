"""llama.cpp's model and context as Python classes: exceptions instead of null pointers."""

import ctypes
from typing import Any

from plugins.providers.llama_cpp.native.batch import Batch

_META_BYTES = 1024
_PIECE_BYTES = 256
_F16_BYTES = 2


class NativeError(Exception):
    """A call of llama.cpp failed; the text says which."""


class Model:
    """A loaded model with its vocabulary."""

    def __init__(self, lib: Any, path: str, *, gpu_layers: int = -1) -> None:
        """`gpu_layers` -1 puts all layers on the GPU, if there is one.

        Raises NativeError if the file can't be loaded.
        """
        self.lib = lib
        params = lib.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        self.handle: Any = lib.llama_model_load_from_file(path.encode(), params)
        if not self.handle:
            raise NativeError("llama.cpp can't load this model file")
        self.vocab: Any = lib.llama_model_get_vocab(self.handle)
        if not self.vocab:
            raise NativeError("the model file has no vocabulary")
        self._pieces: dict[int, bytes] = {}

    @property
    def training_context(self) -> int:
        return int(self.lib.llama_model_n_ctx_train(self.handle))

    @property
    def parameters(self) -> int:
        return int(self.lib.llama_model_n_params(self.handle))

    @property
    def weight_bytes(self) -> int:
        return int(self.lib.llama_model_size(self.handle))

    @property
    def vocabulary_size(self) -> int:
        return int(self.lib.llama_vocab_n_tokens(self.vocab))

    @property
    def generates_text(self) -> bool:
        """Whether it continues a text token by token, unlike encoders and diffusion models."""
        lib, model = self.lib, self.handle
        causal = lib.llama_model_has_decoder(model) and not lib.llama_model_has_encoder(model)
        return bool(causal) and not lib.llama_model_is_diffusion(model)

    @property
    def supports_partial_sequences(self) -> bool:
        """Whether a part of a sequence can be copied or removed; recurrent states can't be cut."""
        lib, model = self.lib, self.handle
        return not (lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model))

    @property
    def chat_template(self) -> str | None:
        template: bytes | None = self.lib.llama_model_chat_template(self.handle, None)
        return template.decode("utf-8", "replace") if template else None

    @property
    def cell_bytes(self) -> int:
        """Bytes of one token's keys and values over all layers (f16)."""
        lib, model = self.lib, self.handle
        kv_heads = max(1, int(lib.llama_model_n_head_kv(model)))
        plain = int(lib.llama_model_n_embd(model)) // max(1, int(lib.llama_model_n_head(model)))
        arch = self.meta("general.architecture")
        key = int(self.meta(f"{arch}.attention.key_length") or plain)
        value = int(self.meta(f"{arch}.attention.value_length") or plain)
        return int(lib.llama_model_n_layer(model)) * kv_heads * (key + value) * _F16_BYTES

    def meta(self, key: str) -> str:
        """A metadata value as text, empty if the file does not have it."""
        buffer = ctypes.create_string_buffer(_META_BYTES)
        size = self.lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, _META_BYTES)
        return buffer.value.decode("utf-8", "replace") if size >= 0 else ""

    def tokenize(self, text: str, *, parse_special: bool, add_special: bool = False) -> list[int]:
        """Tokens of a text. Raises NativeError.

        `parse_special`: texts of control tokens become these tokens. `add_special`: with the
        tokens that the model expects around a text.
        """
        data = text.encode("utf-8", "replace")
        if not data and not add_special:
            return []
        capacity = len(data) + 8
        tokens = (ctypes.c_int32 * capacity)()
        count = self.lib.llama_tokenize(
            self.vocab, data, len(data), tokens, capacity, add_special, parse_special
        )
        if count < 0:
            raise NativeError("llama.cpp can't tokenize this text")
        return list(tokens[:count])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """A token's bytes; control tokens have none unless `special`."""
        if special:
            return self._read_piece(token, special=True)
        piece = self._pieces.get(token)
        if piece is None:
            piece = self._pieces[token] = self._read_piece(token, special=False)
        return piece

    def show_control_token(self, token: int) -> None:
        """From now on `piece` returns this control token's text."""
        self._pieces[token] = self._read_piece(token, special=True)

    def _read_piece(self, token: int, *, special: bool) -> bytes:
        size = _PIECE_BYTES
        for _ in range(2):
            buffer = ctypes.create_string_buffer(size)
            count = self.lib.llama_token_to_piece(self.vocab, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count
        raise NativeError(f"token {token} has no text")

    def ends_generation(self, token: int) -> bool:
        return bool(self.lib.llama_vocab_is_eog(self.vocab, token))

    @property
    def bos_token(self) -> int | None:
        """The token that every prompt of this model starts with, if the model has one."""
        starts_with_bos = self.lib.llama_vocab_get_add_bos(self.vocab)
        token = int(self.lib.llama_vocab_bos(self.vocab))
        return token if starts_with_bos and token >= 0 else None

    def special_text(self, name: str) -> str:
        """The text of the `bos` or `eos` token, empty if the vocabulary has none."""
        token = int(getattr(self.lib, f"llama_vocab_{name}")(self.vocab))
        return self.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""


class Context:
    """llama.cpp's context: the KV cache of all sequences, and decoding."""

    def __init__(
        self,
        model: Model,
        *,
        cells: int,
        slots: int,
        batch_tokens: int,
        threads: int,
        draft_rows: int = 0,
    ) -> None:
        """`slots` is the number of sequence ids, limited to what llama.cpp supports.

        A step can compute the logits of one row per slot, and of `draft_rows` more.
        Raises NativeError if there is too little memory.
        """
        self.lib = model.lib
        params = self.lib.llama_context_default_params()
        self.slots = min(slots, int(self.lib.llama_max_parallel_sequences()))
        params.n_ctx, params.n_seq_max = cells, self.slots
        params.n_batch = params.n_ubatch = batch_tokens
        self.outputs = params.n_outputs_max = min(self.slots + draft_rows, batch_tokens)
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        self.handle: Any = self.lib.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise NativeError(
                f"llama.cpp can't create a context of {cells} tokens for this model, most likely "
                "for lack of memory: lower models.context_tokens or models.max_sequences"
            )
        self._memory: Any = self.lib.llama_get_memory(self.handle)
        if not self._memory:
            raise NativeError("this model has no KV cache, so it can't generate text")
        self.cells = int(self.lib.llama_n_ctx(self.handle))
        self.batch_tokens = batch_tokens

    def decode(self, batch: Batch) -> int:
        """The code of llama_decode: 0 success, 1 no free cells, others failure."""
        return int(self.lib.llama_decode(self.handle, batch.raw))

    def copy(self, source: int, target: int, length: int) -> None:
        """Let `target` share the first `length` tokens of `source`."""
        self.lib.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def copy_all(self, source: int, target: int) -> None:
        """Let `target` share all of `source`; works for recurrent states as well."""
        self.lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def remove(self, sequence: int) -> None:
        """Remove a whole sequence; never fails."""
        self.lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def truncate(self, sequence: int, length: int) -> None:
        """Keep only the first `length` tokens of a sequence.

        Raises NativeError if the model does not support partial sequences.
        """
        if not self.lib.llama_memory_seq_rm(self._memory, sequence, length, -1):
            raise NativeError("this model can't remove the last tokens of a sequence")

    @property
    def can_shift(self) -> bool:
        """Whether tokens of a sequence can be moved to other positions."""
        return bool(self.lib.llama_memory_can_shift(self._memory))

    def shift(self, sequence: int, start: int, count: int, *, end: int) -> None:
        """Remove `count` tokens from `start` on and move those up to `end` into their place."""
        self.lib.llama_memory_seq_rm(self._memory, sequence, start, start + count)
        self.lib.llama_memory_seq_add(self._memory, sequence, start + count, end, -count)

    def clear(self) -> None:
        """Remove every sequence."""
        self.lib.llama_memory_clear(self._memory, False)
