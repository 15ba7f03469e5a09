"""The tiny model in the test's own process, and what its grammar sampler accepts."""

from functools import lru_cache
from pathlib import Path

from plugins.providers.llama_cpp.native.batch import Batch
from plugins.providers.llama_cpp.native.bindings import Context, Model
from plugins.providers.llama_cpp.native.loader import load_library
from plugins.providers.llama_cpp.native.log import ErrorLog
from plugins.providers.llama_cpp.sampling.grammar_sampler import create_grammar_sampler
from plugins.providers.llama_cpp.sampling.logits import LogitsArray

BYTES = 5  # the token of byte 0
END = 4
_log = ErrorLog()


@lru_cache(maxsize=1)
def _library() -> object:
    lib = load_library()
    _log.install(lib)
    lib.llama_backend_init()
    return lib


def open_model(path: Path) -> Model:
    """Loads the library, then the model."""
    return Model(_library(), str(path))


def matches_grammar(model: Model, grammar: str, text: str) -> bool:
    """Whether llama.cpp's grammar sampler accepts exactly this text, byte by byte."""
    sampler, logits = create_grammar_sampler(model, grammar), LogitsArray(model)
    try:
        for byte in text.encode("utf-8", "surrogatepass"):
            if not logits.allows(sampler, BYTES + byte):
                return False
            model.lib.llama_sampler_accept(sampler, BYTES + byte)
        return logits.allows(sampler, END)
    finally:
        model.lib.llama_sampler_free(sampler)


def compute_context(model: Model, tokens: list[int]) -> tuple[Context, int]:
    """A context that has computed these tokens, and the row of the last one's logits."""
    context = Context(model, cells=256, slots=2, batch_tokens=64, threads=1)
    batch = Batch(model.lib, 64)
    row = -1
    for at, token in enumerate(tokens):
        row = batch.add(token, at, 0, wants_logits=at == len(tokens) - 1)
    assert context.decode(batch) == 0
    return context, row
