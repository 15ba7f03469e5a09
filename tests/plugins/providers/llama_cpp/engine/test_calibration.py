"""Threads, chunk and costs: estimated, or measured on request; the context stays unchanged."""

from pathlib import Path

import pytest

from appliance.spi import host
from plugins.providers.llama_cpp.engine.calibration import (
    Calibration,
    Prober,
    calibrate,
    estimate_calibration,
)
from plugins.providers.llama_cpp.host import kv_sizing
from plugins.providers.llama_cpp.native.bindings import Context, Model
from plugins.providers.llama_cpp.native.loader import load_library
from plugins.providers.llama_cpp.protocol.messages import Configure
from plugins.providers.llama_cpp.speculation.step_costs import MEASURED_ROWS
from tests.support.tiny_gguf import write_tiny_gguf


def _configure(*, chunk: int = 0, probe: bool = False) -> Configure:
    return Configure("", context_tokens=0, threads=0, max_sequences=1, chunk=chunk, probe=probe)


@pytest.fixture
def model(tmp_path: Path) -> Model:
    lib = load_library()
    lib.llama_backend_init()
    return Model(lib, str(write_tiny_gguf(tmp_path / "tiny.gguf")))


def test_estimate_when_nothing_is_known_then_all_cpus_and_the_estimate():
    estimate = estimate_calibration(_configure(), 7_000_000_000)
    assert estimate.threads == host.usable_cpus()
    assert estimate.chunk == kv_sizing.estimate_chunk(7_000_000_000, estimate.threads)


def test_estimate_when_profile_has_a_chunk_then_used_and_for_a_probe_the_largest():
    configure = _configure(chunk=32)
    assert estimate_calibration(configure, 1).chunk == 32
    assert estimate_calibration(_configure(probe=True), 10**12).chunk == kv_sizing.LARGEST_CHUNK


def test_calibration_when_probing_then_plausible_and_speeds_only_if_undisturbed(model: Model):
    context = Context(model, cells=512, slots=1, batch_tokens=256, threads=1)
    estimate = Calibration(threads=1, chunk=256)
    measured = calibrate(_configure(probe=True), estimate, model, context)
    assert measured.threads == 1
    assert measured.chunk in {16, 32, 64, 128, 256}
    speeds = measured.prefill_tokens_per_second, measured.decode_tokens_per_second
    assert speeds == (None, None) or all(speed and speed > 0 for speed in speeds)
    assert calibrate(_configure(), estimate, model, context) is estimate
    assert measured.costs.times == () or measured.costs.times[0] == 1.0


def test_costs_when_measured_then_one_for_each_number_of_rows_and_never_falling(model: Model):
    context = Context(model, cells=512, slots=1, batch_tokens=64, threads=1, draft_rows=15)
    prober = Prober(model, context, 32)
    times = prober.measure_costs().times
    prober.close()
    assert len(times) == len(MEASURED_ROWS)
    assert times[0] == 1.0
    assert list(times) == sorted(times)


def test_costs_when_fewer_rows_fit_then_only_those(model: Model):
    context = Context(model, cells=512, slots=4, batch_tokens=64, threads=1)
    prober = Prober(model, context, 32)
    assert len(prober.measure_costs().times) == MEASURED_ROWS.index(4) + 1
    prober.close()


def test_estimate_when_costs_were_measured_then_used():
    configure = Configure("", context_tokens=0, threads=0, max_sequences=1, row_costs=(1.0, 2.5))
    assert estimate_calibration(configure, 1).costs.step_time(4) == 2.5


def test_typical_request_when_nothing_was_measured_then_infinite():
    assert Calibration(1, 16).typical_request_s == float("inf")
    assert Calibration(1, 16, 512.0, 128.0).typical_request_s == 2.0
