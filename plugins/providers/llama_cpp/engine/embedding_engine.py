"""The engine for embedding models: encoders, and models with pooling."""

import socket
from collections.abc import Iterator, Sequence

from appliance.spi import host
from plugins.providers.llama_cpp.confinement.lockdown import Confinement
from plugins.providers.llama_cpp.engine.batcher import EngineError
from plugins.providers.llama_cpp.engine.outbox import Outbox
from plugins.providers.llama_cpp.engine.pooling import PoolingContext
from plugins.providers.llama_cpp.host import kv_sizing
from plugins.providers.llama_cpp.native.batch import Batch
from plugins.providers.llama_cpp.native.bindings import Model, NativeError
from plugins.providers.llama_cpp.native.loader import load_library
from plugins.providers.llama_cpp.native.log import ErrorLog
from plugins.providers.llama_cpp.protocol.embedding_messages import (
    CountTexts,
    EmbeddingFailed,
    EmbedTexts,
    FromEmbeddingEngine,
    TextCounts,
    Vectors,
    receive_request,
)
from plugins.providers.llama_cpp.protocol.messages import (
    Configure,
    FrameError,
    Ready,
    encode_frame,
)

_MAX_TEXTS_PER_STEP = 16


class EmbeddingEngine:
    """A loaded model that answers one request after the other."""

    def __init__(
        self,
        connection: socket.socket,
        outbox: Outbox,
        configure: Configure,
        log: ErrorLog,
        confinement: Confinement,
    ) -> None:
        """Loads everything. Raises LibraryError or NativeError with the reason."""
        lib = load_library()
        log.install(lib)
        lib.llama_backend_init()
        self._model = Model(lib, configure.path, gpu_layers=configure.gpu_layers)
        threads = configure.threads or host.usable_cpus()
        free_bytes = configure.memory_bytes or host.available_memory()
        tokens = kv_sizing.choose_embedding_context(
            training_context=self._model.training_context,
            requested_context=configure.context_tokens,
            heads=int(lib.llama_model_n_head(self._model.handle)),
            free_bytes=max(0, free_bytes - self._model.weight_bytes),
        )
        self._pooling = PoolingContext(
            self._model, tokens=tokens, sequences=_MAX_TEXTS_PER_STEP, threads=threads
        )
        self._batch = Batch(lib, tokens)
        self._connection = connection
        self._compute([self._tokenize("warm")])
        note = f"embeddings of {self._pooling.dimensions}"
        outbox.put(
            Ready(
                tokens, tokens, _MAX_TEXTS_PER_STEP, threads, note,
                confinement_layers=confinement.layers, confinement_gaps=confinement.missing,
            )
        )  # fmt: skip
        outbox.drain()

    def run(self) -> None:
        """Serve until the server closes the connection. Raises EngineError or OSError."""
        try:
            while (request := receive_request(self._connection)) is not None:
                self._connection.sendall(encode_frame(self._answer(request)))
        except FrameError as error:
            raise EngineError(f"the connection to the server failed: {error}") from error

    def _answer(self, request: CountTexts | EmbedTexts) -> FromEmbeddingEngine:
        try:
            texts = [self._tokenize(text) for text in request.texts]
            if isinstance(request, CountTexts):
                return TextCounts(request.id, tuple(len(tokens) for tokens in texts))
            return Vectors(request.id, tuple(self._compute_all(texts)))
        except NativeError as error:
            return EmbeddingFailed(request.id, str(error))

    def _compute_all(self, texts: Sequence[list[int]]) -> Iterator[bytes]:
        for group in kv_sizing.group_texts(texts, self._pooling.tokens, _MAX_TEXTS_PER_STEP):
            yield from self._compute(group)

    def _compute(self, texts: Sequence[list[int]]) -> list[bytes]:
        """The vectors of texts that fit in one step."""
        self._batch.clear()
        for sequence, tokens in enumerate(texts):
            for position, token in enumerate(tokens):
                self._batch.add(token, position, sequence, wants_logits=True)
        return self._pooling.compute(self._batch, len(texts))

    def _tokenize(self, text: str) -> list[int]:
        return self._model.tokenize(text, parse_special=False, add_special=True)
