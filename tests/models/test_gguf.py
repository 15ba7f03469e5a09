"""The GGUF header: valid files, and malformed or hostile ones."""

import random
import struct
import tracemalloc
from contextlib import suppress
from pathlib import Path

import pytest

from appliance.errors import InvalidInput
from appliance.models.gguf.header import GgufInfo, inspect_model
from tests.support.gguf_files import METADATA, gguf, header, pair, tensor, text, write_gguf


def refused(path: Path, content: bytes) -> str:
    """The reason for which a file of this content is refused."""
    path.write_bytes(content)
    with pytest.raises(InvalidInput) as caught:
        inspect_model(path)
    assert caught.value.message.startswith(path.name)
    return caught.value.message


def test_inspect_when_file_is_whole_then_tells_what_it_holds(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "tiny.gguf")
    assert inspect_model(path) == GgufInfo(
        architecture="llama",
        name="Tiny",
        parameters=64,
        context_tokens=256,
        quantization="F32",
        size=path.stat().st_size,
        # 2 layers, 2 heads, keys and values of 8 numbers, 2 bytes each
        kv_bytes_per_token=2 * 2 * 2 * (8 + 8),
        chat_template=False,
    )


def test_inspect_when_given_the_starter_model_then_matches_what_is_known(
    starter_model: Path,
) -> None:
    info = inspect_model(starter_model)
    assert (info.architecture, info.quantization) == ("llama", "Q4_1")
    assert info.parameters == 134_515_008
    assert info.context_tokens == 8192
    assert info.chat_template


def test_inspect_when_file_type_is_missing_then_names_the_type_of_most_weights(
    tmp_path: Path,
) -> None:
    path = write_gguf(tmp_path / "x.gguf", general__file_type=None)
    assert inspect_model(path).quantization == "F32"


def test_inspect_when_heads_are_given_per_layer_then_cache_is_bounded_by_the_largest(
    tmp_path: Path,
) -> None:
    path = write_gguf(tmp_path / "x.gguf", llama__attention__head_count_kv=[1, 2])
    assert inspect_model(path).kv_bytes_per_token == 2 * 2 * 2 * (8 + 8)


def test_inspect_when_last_byte_is_missing_then_says_both_sizes(tmp_path: Path) -> None:
    whole = gguf()
    message = refused(tmp_path / "x.gguf", whole[:-1])
    assert "truncated" in message
    assert str(len(whole)) in message
    assert str(len(whole) - 1) in message


@pytest.mark.parametrize("length", [0, 3, 4, 8, 20, 24, 60, 200])
def test_inspect_when_cut_within_the_header_then_is_refused(tmp_path: Path, length: int) -> None:
    refused(tmp_path / "x.gguf", gguf()[:length])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<!DOCTYPE html><html>", "not a GGUF file"),
        (header(1, 0, magic=b"GGML"), "not a GGUF file"),
        (header(1, 0, version=1), "format version 1"),
        (header(1, 0, version=4), "format version 4"),
        (header(1, 0, version=3 << 24), "big-endian"),
        (header(0, 0), "0 tensors"),
        (header(2**63, 0), f"{2**63} tensors"),
        (header(1, 2**63), f"{2**63} metadata pairs"),
        (header(1, 1) + struct.pack("<Q", 2**40), "a name has"),
        (header(1, 1) + text("k") + struct.pack("<I", 77), "unknown type 77"),
        (header(1, 1) + text("k") + struct.pack("<IIQ", 9, 4, 2**61), "truncated"),
        (header(1, 1) + text("k") + struct.pack("<IIQ", 9, 8, 2**61), "array of"),
        (header(1, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1), "unknown type 9"),
        (header(1, 1) + text("k") + struct.pack("<IQ", 8, 2**60), "truncated"),
        (header(1, 0) + tensor("w", [1] * 5, 0, 0), "5 dimensions"),
        (header(1, 0) + tensor("w", [1], 99, 0), "type 99"),
        (header(1, 0) + tensor("w", [2**63, 2**63], 0, 0), "truncated"),
        (header(1, 0) + tensor("w", [1], 0, 2**63), "truncated"),
        (header(1, 0) + tensor("w", [0], 0, 0) + b"\0" * 64, "architecture"),
        (header(1, 1) + pair("general.alignment", 0) + tensor("w", [1], 0, 0), "alignment"),
        (
            header(1, 1) + pair("general.alignment", 24) + tensor("w", [1], 0, 0) + b"\0" * 64,
            "not a power of two",
        ),
        (header(1, 0) + tensor("w", [1], 0, 4) + b"\0" * 64, "not a multiple of 32"),
        (
            header(2, 0) + tensor("w", [9], 0, 0) + tensor("v", [1], 0, 32) + b"\0" * 128,
            "'v' overlaps",
        ),
    ],
)
def test_inspect_when_header_is_hostile_then_names_what_is_wrong(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    assert reason in refused(tmp_path / "x.gguf", content)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"general.architecture": 7}, "architecture"),
        ({"llama.context_length": "many"}, "not a language model"),
        ({"llama.context_length": 0}, "not a language model"),
        ({"split.count": 3}, "part 1 of 3 of a split model"),
        ({"split.count": 500}, "a model of 500 parts (at most 128)"),
    ],
)
def test_inspect_when_it_is_no_model_by_itself_then_says_so(
    tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    assert reason in refused(tmp_path / "x.gguf", gguf(METADATA | changes))


def test_inspect_when_counts_are_huge_then_allocates_little(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    claims = header(65536, 65536) + text("k") + struct.pack("<IIQ", 9, 8, 2**22)
    path.write_bytes(claims)
    tracemalloc.start()
    try:
        with pytest.raises(InvalidInput):
            inspect_model(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000


def test_inspect_when_bytes_are_flipped_at_random_then_never_fails_otherwise(
    tmp_path: Path,
) -> None:
    whole, chance = gguf(), random.Random(7)
    path = tmp_path / "x.gguf"
    for _ in range(400):
        mutant = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            mutant[chance.randrange(len(mutant))] = chance.randrange(256)
        path.write_bytes(mutant[: chance.randint(1, len(mutant))])
        with suppress(InvalidInput):
            inspect_model(path)


def test_inspect_when_file_is_missing_or_a_folder_then_says_so(tmp_path: Path) -> None:
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(InvalidInput, match="can't be read"):
            inspect_model(path)
