"""The small parts of the local provider: sizes, limits, backoff, advice, options, frames."""

import asyncio
import os
import socket

import pytest

from appliance.config.settings import ModelSettings
from appliance.errors import ConfigError, QueueFull
from plugins.providers.llama_cpp.engine.intake import receive_message
from plugins.providers.llama_cpp.engine.outbox import Outbox
from plugins.providers.llama_cpp.host.exit_diagnosis import diagnose_exit
from plugins.providers.llama_cpp.host.kv_sizing import (
    choose_embedding_context,
    choose_kv_cache_size,
    correct_chunk,
    estimate_chunk,
    estimate_memory_bytes,
    group_texts,
)
from plugins.providers.llama_cpp.host.process_memory import ResidentMemory, read_resident_memory
from plugins.providers.llama_cpp.protocol import messages
from plugins.providers.llama_cpp.sampling.chain import native_seed
from plugins.providers.llama_cpp.supervision.backoff import Backoff
from plugins.providers.llama_cpp.supervision.options import Options, read_options
from plugins.providers.llama_cpp.supervision.request_limit import RequestLimit

_GIB = 2**30


def _size(**changed: int):
    usual = {"training_context": 8192, "requested_context": 0, "sequences": 8, "cell_bytes": 23040}
    return choose_kv_cache_size(**{**usual, "free_bytes": 16 * _GIB, **changed})


def test_kv_cache_size_when_context_is_small_then_eight_candidates_still_fit_together():
    size = _size(training_context=2048)
    assert size.context_tokens == 2048
    assert size.cells >= 1000 + 8 * 512


def test_kv_cache_size_when_no_context_is_requested_then_context_is_what_the_model_was_trained_on():
    assert _size().context_tokens == 8192


def test_kv_cache_size_when_context_is_requested_then_used_but_not_beyond_training():
    assert _size(requested_context=4096).context_tokens == 4096
    assert _size(requested_context=100_000).context_tokens == 8192


def test_kv_cache_size_when_model_was_trained_on_very_much_then_bounded():
    assert _size(training_context=1_000_000).context_tokens == 32768


def test_kv_cache_size_when_memory_is_short_then_a_quarter_of_it_is_used():
    size = _size(training_context=32768, cell_bytes=2**17, free_bytes=2 * _GIB)
    assert size.cells == size.context_tokens == 4096


def test_kv_cache_size_when_no_memory_is_free_then_the_smallest():
    assert _size(free_bytes=0).cells == 512


@pytest.mark.parametrize(
    ("parameters", "threads", "chunk"),
    [(135e6, 2, 256), (135e6, 64, 256), (7e9, 16, 32), (70e9, 1, 16), (0, 1, 256)],
)
def test_chunk_when_model_is_larger_then_smaller(parameters: float, threads: int, chunk: int):
    assert estimate_chunk(int(parameters), threads) == chunk


def test_resident_memory_when_process_runs_then_own_and_files_and_nothing_once_it_ended():
    memory = read_resident_memory(os.getpid())
    assert memory.own > 0
    assert memory.total == memory.own + memory.files
    assert read_resident_memory(2**22 + 1) == ResidentMemory()


def test_needed_when_estimated_then_file_cells_and_program_count_and_the_cache_shrinks():
    facts = {
        "file": 10**9,
        "cell_bytes": 100_000,
        "training_context": 8192,
        "requested_context": 0,
        "sequences": 8,
    }
    most = estimate_memory_bytes(**facts, free_bytes=64 * _GIB)
    least = estimate_memory_bytes(**facts, free_bytes=0)
    assert most - least == 100_000 * (8192 - 512)
    assert least > 10**9 + 100_000 * 512


@pytest.mark.parametrize(
    ("estimate", "speed", "chunk"),
    [(256, 400.0, 256), (256, 100.0, 32), (16, 1000.0, 256), (64, 0.0, 16)],
)
def test_chunk_when_measured_then_changed_only_if_clearly_wrong(
    estimate: int, speed: float, chunk: int
):
    assert correct_chunk(estimate, speed) == chunk


def test_texts_when_texts_are_grouped_then_none_is_lost_and_each_group_fits():
    texts = [[1] * size for size in (5, 5, 1, 10, 10, 2)]
    groups = list(group_texts(texts, max_tokens=10, max_texts=2))
    assert [text for group in groups for text in group] == texts
    assert all(len(group) <= 2 and sum(map(len, group)) <= 10 for group in groups)


def test_embedding_context_when_memory_is_short_then_shorter_unless_requested():
    facts = {"training_context": 8192, "heads": 16, "free_bytes": 1 * _GIB}
    assert choose_embedding_context(requested_context=0, **facts) == 2048
    assert choose_embedding_context(requested_context=4096, **facts) == 4096


def test_backoff_when_engine_ends_in_a_row_then_waits_longer_until_it_worked():
    backoff = Backoff()
    backoff.record_end(was_ready=True)
    assert backoff.remaining_s == 0
    backoff.record_end(was_ready=True)
    first = backoff.remaining_s
    backoff.record_end(was_ready=True)
    assert 0 < first < backoff.remaining_s
    backoff.reset()
    backoff.record_end(was_ready=True)
    assert backoff.remaining_s == 0


def test_backoff_when_engine_never_loaded_then_waits_from_the_first_time():
    backoff = Backoff()
    backoff.record_end(was_ready=False)
    assert backoff.remaining_s > 0


@pytest.mark.parametrize(
    ("status", "errors", "expected"),
    [
        (-9, "", "smaller model"),
        (-4, "", "CPU instructions"),
        (-50, "", "signal 50"),
        (3, "one\ntwo\nthree\n", "two; three"),
        (None, "", "closed its connection"),
        (1, "error in /home/someone/.cache/x.cpp:12", "x.cpp:12"),
    ],
)
def test_advice_when_engine_ended_then_says_how_and_what_helps(
    status: int | None, errors: str, expected: str
):
    advice = diagnose_exit(status, errors)
    assert expected in advice
    assert "/home" not in advice


def test_options_when_read_then_same_fields_and_defaults_as_the_settings():
    fields = ModelSettings.__struct_fields__
    assert fields == Options.__struct_fields__
    settings = {name: getattr(ModelSettings(), name) for name in fields}
    assert read_options(settings) == read_options({}) == Options()


def test_options_when_type_is_wrong_then_config_error():
    with pytest.raises(ConfigError, match="threads"):
        read_options({"threads": "many"})


async def test_admission_when_full_then_says_how_many_wait_and_how_long():
    limit = RequestLimit(running=1, waiting=0)
    async with limit.admit():
        with pytest.raises(QueueFull) as caught:
            await _enter(limit)
    assert caught.value.details == {"queue_length": 0, "queue_limit": 0}
    assert caught.value.retry_after is None
    await asyncio.wait_for(limit.wait_until_idle(), 5)
    async with limit.admit():
        with pytest.raises(QueueFull) as caught:
            await _enter(limit)
    assert caught.value.retry_after is not None


@pytest.mark.parametrize("seed", [0, 1, -1, 2**32 - 1, 2**63 - 1, -(2**63)])
def test_seed_when_any_integer_then_never_llamas_random_one(seed: int):
    assert 0 <= native_seed(seed) < 2**32 - 1


def test_frames_when_too_long_or_no_message_then_error():
    with pytest.raises(messages.FrameError):
        messages.decode_body_length(b"\xff\xff\xff\xff")
    for body in (b"", b"\xc1", b"\x81\xa4type\xa7unknown"):
        with pytest.raises(messages.FrameError):
            messages.decode_to_engine(body)
        with pytest.raises(messages.FrameError):
            messages.decode_from_engine(body)


def test_frames_when_stream_ends_then_none_and_within_a_frame_error():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(messages.encode_frame(messages.Cancel(7)) + b"\x00\x00")
        theirs.close()
        assert receive_message(ours) == messages.Cancel(7)
        with pytest.raises(messages.FrameError):
            receive_message(ours)


def test_outbox_when_nobody_reads_then_flush_returns_and_nothing_is_lost():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        outbox = Outbox(ours)
        texts = [str(at) * 500 for at in range(1000)]
        for text in texts:
            outbox.put(messages.Text(1, text))
            outbox.flush()
        theirs.settimeout(5)
        received = bytearray()
        expected = b"".join(messages.encode_frame(messages.Text(1, text)) for text in texts)
        while len(received) < len(expected):
            received += theirs.recv(65536)
            outbox.flush()
        assert bytes(received) == expected


async def _enter(limit: RequestLimit) -> None:
    async with limit.admit():
        pass
