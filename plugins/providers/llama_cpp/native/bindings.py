"""llama.cpp's objects with Python's manners: errors instead of null, freed once."""

import ctypes
from typing import Any

from plugins.providers.llama_cpp.native.batch import Batch

_META_BYTES = 1024
_PIECE_BYTES = 256
_F16_BYTES = 2


class NativeError(Exception):
    """llama.cpp refused something; the text says what."""


class Model:
    """A loaded model with its vocabulary."""

    def __init__(self, lib: Any, path: str, *, gpu_layers: int = -1) -> None:
        """-1: all layers on the GPU, if any. Raises NativeError if the file can't be loaded."""
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
    def trained_tokens(self) -> int:
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
        """Whether it continues a text token by token: no encoder, no diffusion."""
        lib, model = self.lib, self.handle
        causal = lib.llama_model_has_decoder(model) and not lib.llama_model_has_encoder(model)
        return bool(causal) and not lib.llama_model_is_diffusion(model)

    @property
    def divisible_memory(self) -> bool:
        """Whether a part of a sequence's memory can be taken: not so for recurrent states."""
        lib, model = self.lib, self.handle
        return not (lib.llama_model_is_recurrent(model) or lib.llama_model_is_hybrid(model))

    @property
    def description(self) -> str:
        buffer = ctypes.create_string_buffer(_META_BYTES)
        self.lib.llama_model_desc(self.handle, buffer, _META_BYTES)
        return buffer.value.decode("utf-8", "replace")

    @property
    def chat_template(self) -> str | None:
        found: bytes | None = self.lib.llama_model_chat_template(self.handle, None)
        return found.decode("utf-8", "replace") if found else None

    @property
    def cell_bytes(self) -> int:
        """Memory of one token's keys and values over all layers (f16)."""
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

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Tokens of the text alone, without a first or last token of the vocabulary's own."""
        data = text.encode("utf-8", "replace")
        if not data:
            return []
        room = len(data) + 8
        tokens = (ctypes.c_int32 * room)()
        count = self.lib.llama_tokenize(
            self.vocab, data, len(data), tokens, room, False, parse_special
        )
        if count < 0:
            raise NativeError("llama.cpp can't split this text into tokens")
        return list(tokens[:count])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """A token's bytes; control tokens have none unless `special`."""
        if special:
            return self._read_piece(token, special=True)
        known = self._pieces.get(token)
        if known is None:
            known = self._pieces[token] = self._read_piece(token, special=False)
        return known

    def reveal(self, token: int) -> None:
        """From now on answers show this control token's text."""
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
    def first_token(self) -> int | None:
        """The token that every prompt of this model starts with, if it wants one."""
        wanted = self.lib.llama_vocab_get_add_bos(self.vocab)
        token = int(self.lib.llama_vocab_bos(self.vocab))
        return token if wanted and token >= 0 else None

    def special_text(self, which: str) -> str:
        """The text of the `bos` or `eos` token, empty if the vocabulary has none."""
        token = int(getattr(self.lib, f"llama_vocab_{which}")(self.vocab))
        return self.piece(token, special=True).decode("utf-8", "replace") if token >= 0 else ""


class Context:
    """The memory of all sequences of a model, and the computation over them."""

    def __init__(
        self,
        model: Model,
        *,
        cells: int,
        slots: int,
        batch_tokens: int,
        threads: int,
        drafted: int = 0,
    ) -> None:
        """`slots` is how many sequence ids there are, if llama.cpp takes so many.

        A step may have the logits of a row for each of them, and of `drafted` more.
        Raises NativeError if the memory for it is not there.
        """
        self.lib = model.lib
        params = self.lib.llama_context_default_params()
        self.slots = min(slots, int(self.lib.llama_max_parallel_sequences()))
        params.n_ctx, params.n_seq_max = cells, self.slots
        params.n_batch = params.n_ubatch = batch_tokens
        self.outputs = params.n_outputs_max = min(self.slots + drafted, batch_tokens)
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        self.handle: Any = self.lib.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise NativeError(
                f"llama.cpp can't set up a context of {cells} tokens for this model, most likely "
                "for lack of memory: lower models.context_tokens or models.max_sequences"
            )
        self._memory: Any = self.lib.llama_get_memory(self.handle)
        if not self._memory:
            raise NativeError("this model has no memory of a text, so it can't generate one")
        self.cells = int(self.lib.llama_n_ctx(self.handle))
        self.batch_tokens = batch_tokens

    def decode(self, batch: Batch) -> int:
        """llama_decode's own code: 0 done, 1 no room in the memory, others failed."""
        return int(self.lib.llama_decode(self.handle, batch.raw))

    def copy(self, source: int, target: int, length: int) -> None:
        """Let `target` share the first `length` tokens of `source`."""
        self.lib.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def copy_all(self, source: int, target: int) -> None:
        """Let `target` share all of `source`, whatever kind of memory the model has."""
        self.lib.llama_memory_seq_cp(self._memory, source, target, -1, -1)

    def remove(self, sequence: int) -> None:
        """Forget a whole sequence; never fails."""
        self.lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def cut(self, sequence: int, length: int) -> None:
        """Forget what a sequence has behind its first `length` tokens.

        Raises NativeError where the memory can't: never so if the model's is divisible.
        """
        if not self.lib.llama_memory_seq_rm(self._memory, sequence, length, -1):
            raise NativeError("this model's memory can't forget a sequence's last tokens")

    @property
    def can_shift(self) -> bool:
        """Whether tokens of a sequence can move to other positions."""
        return bool(self.lib.llama_memory_can_shift(self._memory))

    def shift(self, sequence: int, start: int, count: int, *, end: int) -> None:
        """Forget `count` tokens from `start` on and move those up to `end` into their place."""
        self.lib.llama_memory_seq_rm(self._memory, sequence, start, start + count)
        self.lib.llama_memory_seq_add(self._memory, sequence, start + count, end, -count)

    def clear(self) -> None:
        """Forget every sequence."""
        self.lib.llama_memory_clear(self._memory, False)
