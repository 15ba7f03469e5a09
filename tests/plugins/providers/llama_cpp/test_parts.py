"""The small parts of the local provider: sizes, limits, backoff, advice, options, frames."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from appliance.config.settings import ModelSettings
from appliance.errors import ConfigError, QueueFull
from plugins.providers.llama_cpp.engine.intake import receive
from plugins.providers.llama_cpp.engine.outbox import Outbox
from plugins.providers.llama_cpp.host import host_resources
from plugins.providers.llama_cpp.host.exit_diagnosis import why_it_ended
from plugins.providers.llama_cpp.host.kv_sizing import (
    choose_room,
    embedding_context,
    measured_chunk,
    needed_bytes,
    packed,
    prefill_chunk,
)
from plugins.providers.llama_cpp.protocol import messages
from plugins.providers.llama_cpp.sampling.sampler import native_seed
from plugins.providers.llama_cpp.supervision.backoff import Backoff
from plugins.providers.llama_cpp.supervision.options import Options, read_options
from plugins.providers.llama_cpp.supervision.request_limit import Admission

_GIB = 2**30


def _room(**changed: int):
    usual = {"trained": 8192, "asked": 0, "sequences": 8, "cell_bytes": 23040}
    return choose_room(**{**usual, "free_bytes": 16 * _GIB, **changed})


def test_room_when_context_is_small_then_eight_candidates_still_fit_together():
    room = _room(trained=2048)
    assert room.context_tokens == 2048
    assert room.cells >= 1000 + 8 * 512


def test_room_when_nothing_is_asked_then_context_is_what_the_model_was_trained_on():
    assert _room().context_tokens == 8192


def test_room_when_context_is_asked_then_taken_but_not_beyond_training():
    assert _room(asked=4096).context_tokens == 4096
    assert _room(asked=100_000).context_tokens == 8192


def test_room_when_model_was_trained_on_very_much_then_bounded():
    assert _room(trained=1_000_000).context_tokens == 32768


def test_room_when_memory_is_short_then_a_quarter_of_it_is_used():
    room = _room(trained=32768, cell_bytes=2**17, free_bytes=2 * _GIB)
    assert room.cells == room.context_tokens == 4096


def test_room_when_no_memory_is_known_then_still_some():
    assert _room(free_bytes=0).cells == 512


@pytest.mark.parametrize(
    ("parameters", "threads", "chunk"),
    [(135e6, 2, 256), (135e6, 64, 256), (7e9, 16, 32), (70e9, 1, 16), (0, 1, 256)],
)
def test_chunk_when_model_is_larger_then_smaller(parameters: float, threads: int, chunk: int):
    assert prefill_chunk(int(parameters), threads) == chunk


def test_machine_when_asked_then_at_least_one_cpu_and_some_memory():
    assert 1 <= host_resources.usable_cpus() <= len(os.sched_getaffinity(0))
    assert host_resources.available_bytes() > 0


def test_machine_when_cgroup_limits_then_limits_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(host_resources, "_CGROUP", tmp_path)
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    assert host_resources.usable_cpus() == 1
    assert host_resources.available_bytes() == 600_000


def _cgroups(root: Path, monkeypatch: pytest.MonkeyPatch, own: str) -> None:
    monkeypatch.setattr(host_resources, "_CGROUP", root)
    monkeypatch.setattr(host_resources, "_OWN_GROUPS", root / "own")
    (root / "own").write_text(own)


def _write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def test_machine_when_nested_groups_limit_then_the_tightest_counts_and_cache_is_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _cgroups(tmp_path, monkeypatch, "0::/a/b\n")
    stat = "anon 5\ninactive_file 300\nactive_file 100\nfile 999"
    _write(tmp_path / "a", memory__max=1000, memory__current=900, memory__stat=stat)
    _write(tmp_path / "a/b", memory__max="max", memory__current=50, cpu__max="100000 100000")
    assert host_resources.available_bytes() == 1000 - 900 + 300 + 100
    assert host_resources.usable_cpus() == 1


def test_machine_when_groups_are_of_version_1_then_limits_count_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    _cgroups(tmp_path, monkeypatch, "4:memory:/x/y\n3:cpu,cpuacct:/x\n0::/\n")
    group = tmp_path / "memory/x"
    _write(group, memory__limit_in_bytes=5000, memory__usage_in_bytes=4000)
    _write(group, memory__stat="total_inactive_file 500\ntotal_active_file 20\ninactive_file 7")
    _write(tmp_path / "cpu/x", cpu__cfs_quota_us=100000, cpu__cfs_period_us=100000)
    assert host_resources.available_bytes() == 5000 - 4000 + 520
    assert host_resources.usable_cpus() == 1


def test_machine_when_process_is_known_then_its_memory_is_told_and_nothing_of_a_gone_one():
    found = host_resources.resident(os.getpid())
    assert found.own > 0
    assert found.all == found.own + found.files
    assert host_resources.resident(2**22 + 1) == host_resources.Resident()


def test_needed_when_estimated_then_file_cells_and_program_count_and_room_shrinks():
    facts = {"file": 10**9, "cell_bytes": 100_000, "trained": 8192, "asked": 0, "sequences": 8}
    wanted = needed_bytes(**facts, free_bytes=64 * _GIB)
    least = needed_bytes(**facts, free_bytes=0)
    assert wanted - least == 100_000 * (8192 - 512)
    assert least > 10**9 + 100_000 * 512


@pytest.mark.parametrize(
    ("estimate", "speed", "chunk"),
    [(256, 400.0, 256), (256, 100.0, 32), (16, 1000.0, 256), (64, 0.0, 16)],
)
def test_chunk_when_measured_then_changed_only_if_clearly_wrong(
    estimate: int, speed: float, chunk: int
):
    assert measured_chunk(estimate, speed) == chunk


def test_packed_when_texts_are_grouped_then_none_is_lost_and_each_group_fits():
    texts = [[1] * size for size in (5, 5, 1, 10, 10, 2)]
    groups = list(packed(texts, tokens=10, together=2))
    assert [text for group in groups for text in group] == texts
    assert all(len(group) <= 2 and sum(map(len, group)) <= 10 for group in groups)


def test_embedding_context_when_memory_is_short_then_shorter_but_taken_as_asked():
    facts = {"trained": 8192, "heads": 16, "free_bytes": 1 * _GIB}
    assert embedding_context(asked=0, **facts) == 2048
    assert embedding_context(asked=4096, **facts) == 4096


def test_backoff_when_engine_ends_in_a_row_then_waits_longer_until_it_worked():
    backoff = Backoff()
    backoff.ended(was_ready=True)
    assert backoff.remaining_s == 0
    backoff.ended(was_ready=True)
    first = backoff.remaining_s
    backoff.ended(was_ready=True)
    assert 0 < first < backoff.remaining_s
    backoff.worked()
    backoff.ended(was_ready=True)
    assert backoff.remaining_s == 0


def test_backoff_when_engine_never_loaded_then_waits_from_the_first_time():
    backoff = Backoff()
    backoff.ended(was_ready=False)
    assert backoff.remaining_s > 0


@pytest.mark.parametrize(
    ("status", "errors", "said"),
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
    status: int | None, errors: str, said: str
):
    advice = why_it_ended(status, errors)
    assert said in advice
    assert "/home" not in advice


def test_options_when_read_then_same_fields_and_defaults_as_the_settings():
    fields = ModelSettings.__struct_fields__
    assert fields == Options.__struct_fields__
    given = {name: getattr(ModelSettings(), name) for name in fields}
    assert read_options(given) == read_options({}) == Options()


def test_options_when_type_is_wrong_then_config_error():
    with pytest.raises(ConfigError, match="threads"):
        read_options({"threads": "many"})


async def test_admission_when_full_then_says_how_many_wait_and_how_long():
    admission = Admission(running=1, waiting=0)
    async with admission.enter():
        with pytest.raises(QueueFull) as caught:
            await _enter(admission)
    assert caught.value.details == {"queue_length": 0, "queue_limit": 0}
    assert caught.value.retry_after is None
    await asyncio.wait_for(admission.empty(), 5)
    async with admission.enter():
        with pytest.raises(QueueFull) as caught:
            await _enter(admission)
    assert caught.value.retry_after is not None


@pytest.mark.parametrize("seed", [0, 1, -1, 2**32 - 1, 2**63 - 1, -(2**63)])
def test_seed_when_any_integer_then_never_llamas_random_one(seed: int):
    assert 0 <= native_seed(seed) < 2**32 - 1


def test_frames_when_too_long_or_no_message_then_error():
    with pytest.raises(messages.FrameError):
        messages.body_length(b"\xff\xff\xff\xff")
    for body in (b"", b"\xc1", b"\x81\xa4type\xa7unknown"):
        with pytest.raises(messages.FrameError):
            messages.to_engine(body)
        with pytest.raises(messages.FrameError):
            messages.from_engine(body)


def test_frames_when_stream_ends_then_none_and_within_a_frame_error():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(messages.pack(messages.Cancel(7)) + b"\x00\x00")
        theirs.close()
        assert receive(ours) == messages.Cancel(7)
        with pytest.raises(messages.FrameError):
            receive(ours)


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
        expected = b"".join(messages.pack(messages.Text(1, text)) for text in texts)
        while len(received) < len(expected):
            received += theirs.recv(65536)
            outbox.flush()
        assert bytes(received) == expected


async def _enter(admission: Admission) -> None:
    async with admission.enter():
        pass
