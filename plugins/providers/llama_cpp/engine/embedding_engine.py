"""An engine for models that make vectors out of texts: an encoder, or a model with pooling."""

import ctypes
import socket
from collections.abc import Iterator, Sequence

from plugins.providers.llama_cpp.confinement.lockdown import Walls
from plugins.providers.llama_cpp.engine.batcher import EngineError
from plugins.providers.llama_cpp.engine.outbox import Outbox
from plugins.providers.llama_cpp.engine.pooling import Pooling
from plugins.providers.llama_cpp.host import host_resources, kv_sizing
from plugins.providers.llama_cpp.native.batch import Batch
from plugins.providers.llama_cpp.native.bindings import Model, NativeError
from plugins.providers.llama_cpp.native.loader import load
from plugins.providers.llama_cpp.native.log import ErrorLog
from plugins.providers.llama_cpp.protocol.embedding_messages import (
    Counts,
    Embed,
    Failed,
    FromVectorEngine,
    Measure,
    Vectors,
    pack,
    receive,
)
from plugins.providers.llama_cpp.protocol.messages import Configure, FrameError, Ready

_TOGETHER = 16


class VectorEngine:
    """A loaded model that answers one question after the other."""

    def __init__(
        self,
        connection: socket.socket,
        outbox: Outbox,
        configure: Configure,
        log: ErrorLog,
        walls: Walls,
    ) -> None:
        """Loads everything. Raises LibraryError or NativeError with the reason."""
        lib = load()
        log.install(lib)
        lib.llama_backend_init()
        self._model = Model(lib, configure.path, gpu_layers=configure.gpu_layers)
        threads = configure.threads or host_resources.usable_cpus()
        free = configure.memory_bytes or host_resources.available_bytes()
        tokens = kv_sizing.embedding_context(
            trained=self._model.trained_tokens,
            asked=configure.context_tokens,
            heads=int(lib.llama_model_n_head(self._model.handle)),
            free_bytes=max(0, free - self._model.weight_bytes),
        )
        self._pooling = Pooling(self._model, tokens=tokens, sequences=_TOGETHER, threads=threads)
        self._batch = Batch(lib, tokens)
        self._connection = connection
        self._compute([self._tokens("warm")])
        said = f"{self._model.description.strip()}, embeddings of {self._pooling.dimensions}"
        outbox.put(
            Ready(
                tokens, tokens, _TOGETHER, threads, said,
                walls=walls.layers, breaches=walls.breaches,
            )
        )  # fmt: skip
        outbox.drain()

    def run(self) -> None:
        """Serve until the server closes the connection. Raises EngineError or OSError."""
        try:
            while (question := receive(self._connection)) is not None:
                self._connection.sendall(pack(self._answer(question)))
        except FrameError as error:
            raise EngineError(f"the connection to the server failed: {error}") from error

    def _answer(self, question: Measure | Embed) -> FromVectorEngine:
        try:
            texts = [self._tokens(text) for text in question.texts]
            if isinstance(question, Measure):
                return Counts(question.id, tuple(len(tokens) for tokens in texts))
            return Vectors(question.id, tuple(self._vectors(texts)))
        except NativeError as error:
            return Failed(question.id, str(error))

    def _vectors(self, texts: Sequence[list[int]]) -> Iterator[bytes]:
        for group in kv_sizing.packed(texts, self._pooling.tokens, _TOGETHER):
            yield from self._compute(group)

    def _compute(self, texts: Sequence[list[int]]) -> list[bytes]:
        """The vectors of texts that fit into one step."""
        self._batch.clear()
        for sequence, tokens in enumerate(texts):
            for position, token in enumerate(tokens):
                self._batch.add(token, position, sequence, wants_logits=True)
        return self._pooling.compute(self._batch, len(texts))

    def _tokens(self, text: str) -> list[int]:
        """A text's tokens with those that the model wants around it; none of them a mark."""
        data = text.encode("utf-8", "replace")
        room = len(data) + 8
        tokens = (ctypes.c_int32 * room)()
        count = self._model.lib.llama_tokenize(
            self._model.vocab, data, len(data), tokens, room, True, False
        )
        if count < 0:
            raise NativeError("llama.cpp can't split this text into tokens")
        return list(tokens[:count])
