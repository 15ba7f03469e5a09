"""Threads and chunk: estimated, measured where asked for, and the context left as it was."""

from pathlib import Path

import pytest

from plugins.providers.llama_cpp.engine import calibration
from plugins.providers.llama_cpp.engine.calibration import Pace, Prober
from plugins.providers.llama_cpp.host import host_resources, kv_sizing
from plugins.providers.llama_cpp.native.bindings import Context, Model
from plugins.providers.llama_cpp.native.loader import load
from plugins.providers.llama_cpp.protocol.messages import Configure
from plugins.providers.llama_cpp.speculation.step_costs import MEASURED_ROWS
from tests.support.tiny_gguf import write_tiny_gguf


def _configure(*, chunk: int = 0, probe: bool = False) -> Configure:
    return Configure("", context_tokens=0, threads=0, max_sequences=1, chunk=chunk, probe=probe)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    lib = load()
    lib.llama_backend_init()
    return Model(lib, str(write_tiny_gguf(tmp_path / "tiny.gguf")))


def test_plan_when_nothing_is_known_then_all_cpus_and_the_estimate():
    planned = calibration.planned(_configure(), 7_000_000_000)
    assert planned.threads == host_resources.usable_cpus()
    assert planned.chunk == kv_sizing.prefill_chunk(7_000_000_000, planned.threads)


def test_plan_when_record_says_it_then_taken_and_for_a_probe_the_largest_chunk():
    known = _configure(chunk=32)
    assert calibration.planned(known, 1).chunk == 32
    assert calibration.planned(_configure(probe=True), 10**12).chunk == kv_sizing.LARGEST_CHUNK


def test_measured_when_asked_then_sound_and_speeds_only_where_undisturbed(model: Model):
    context = Context(model, cells=512, slots=1, batch_tokens=256, threads=1)
    plan = Pace(threads=1, chunk=256)
    found = calibration.measured(_configure(probe=True), plan, model, context)
    assert found.threads == 1
    assert found.chunk in {16, 32, 64, 128, 256}
    speeds = found.prefill_tokens_per_second, found.decode_tokens_per_second
    assert speeds == (None, None) or all(speed and speed > 0 for speed in speeds)
    assert calibration.measured(_configure(), plan, model, context) is plan
    assert found.costs.times == () or found.costs.times[0] == 1.0


def test_costs_when_measured_then_one_for_each_number_of_rows_and_never_falling(model: Model):
    context = Context(model, cells=512, slots=1, batch_tokens=64, threads=1, drafted=15)
    prober = Prober(model, context, 32)
    times = prober.costs().times
    prober.close()
    assert len(times) == len(MEASURED_ROWS)
    assert times[0] == 1.0
    assert list(times) == sorted(times)


def test_costs_when_fewer_rows_fit_then_only_those(model: Model):
    context = Context(model, cells=512, slots=4, batch_tokens=64, threads=1)
    prober = Prober(model, context, 32)
    assert len(prober.costs().times) == MEASURED_ROWS.index(4) + 1
    prober.close()


def test_plan_when_costs_were_measured_then_taken():
    known = Configure("", context_tokens=0, threads=0, max_sequences=1, row_costs=(1.0, 2.5))
    assert calibration.planned(known, 1).costs.of(4) == 2.5


def test_typical_when_nothing_was_measured_then_endless():
    assert Pace(1, 16).typical_s == float("inf")
    assert Pace(1, 16, 512.0, 128.0).typical_s == 2.0
