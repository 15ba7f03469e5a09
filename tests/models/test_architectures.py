"""The architectures that the bundled llama.cpp can load, and files that it can't (F30)."""

import re
from pathlib import Path

import pytest

from appliance.errors import InvalidInput
from appliance.models.gguf.constants import ARCHITECTURES, ENCODER_ARCHITECTURES
from appliance.models.gguf.header import inspect_model
from plugins.providers.llama_cpp.native.loader import load_library
from plugins.providers.llama_cpp.native.log import ErrorLog
from tests.support.gguf_files import METADATA, gguf

_NAME = re.compile(rb"(?<=\0)([a-z][a-z0-9_.-]{1,31})\0")


def _supported(names: set[str], folder: Path) -> set[str]:
    """Those that llama.cpp looks at further than at the name of the architecture."""
    lib, log = load_library(), ErrorLog()
    log.install(lib)
    lib.llama_backend_init()
    params = lib.llama_model_default_params()
    path = folder / "x.gguf"
    found: set[str] = set()
    for name in names:
        path.write_bytes(gguf({"general.architecture": name}))
        assert not lib.llama_model_load_from_file(str(path).encode(), params)
        # At most two lines a load.
        last = "\n".join(log.text.splitlines()[-2:])
        if not re.search(rf"(unknown|unsupported) model architecture: '{re.escape(name)}'", last):
            found.add(name)
    return found


def test_architectures_when_compared_with_the_bundled_library_then_the_same(
    tmp_path: Path,
) -> None:
    library = Path(load_library().__file__).parent / "lib/libllama.so"
    words = {match[1].decode() for match in _NAME.finditer(library.read_bytes())}
    # The linker stores "bert" as the end of "modern-bert".
    supported = _supported(words | ARCHITECTURES, tmp_path)
    assert supported - {"clip"} == ARCHITECTURES
    assert ENCODER_ARCHITECTURES <= ARCHITECTURES


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"general.architecture": "clip", "general.type": "mmproj"}, "a projector (mmproj)"),
        ({"general.architecture": "clip"}, "a projector (mmproj)"),
        ({"general.type": "mmproj"}, "a projector (mmproj)"),
        ({"general.type": "adapter"}, "an adapter (LoRA)"),
        (
            {"general.architecture": "llama9", "llama9.context_length": 512},
            "can't load the architecture 'llama9'",
        ),
        ({"general.architecture": "x" * 5000, f"{'x' * 5000}.context_length": 512}, "'xxxx"),
    ],
)
def test_inspect_when_llama_cpp_can_not_load_it_alone_then_refused_with_the_reason(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(gguf(METADATA | changes))
    with pytest.raises(InvalidInput) as refused:
        inspect_model(path)
    assert reason in refused.value.message
    assert len(refused.value.message) < 200
