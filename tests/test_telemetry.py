"""Logs on stderr without secrets, metrics in Prometheus' format."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from appliance import telemetry
from appliance.config.settings import LogSettings


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_log_when_json_then_each_line_is_an_object_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    telemetry.configure_logging(LogSettings(format="json"))
    structlog.get_logger().info("task_done", task="t1", seconds=1.5)
    logging.getLogger("library").warning("odd %s", "thing")
    output = capsys.readouterr()
    assert output.out == ""
    first, second = [json.loads(line) for line in output.err.splitlines()]
    assert (first["event"], first["task"], first["level"]) == ("task_done", "t1", "info")
    assert second["event"] == "odd thing"


@pytest.mark.parametrize("form", ["text", "json"])
def test_log_when_names_are_secret_then_values_are_masked(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    telemetry.configure_logging(LogSettings(format="json" if form == "json" else "text"))
    structlog.get_logger().warning(
        "login",
        password="hush",
        api_key="hush",
        refresh_token="hush",
        headers={"Authorization": "hush", "X-API-Key": "hush", "cookie": "hush"},
        jwt_secret_key="hush",
        note="sent with mk-hush_hush_hush_1",
        tokens=7,
        user="ann",
    )
    output = capsys.readouterr().err
    assert "hush" not in output
    assert "ann" in output
    assert "7" in output


@pytest.mark.parametrize("form", ["text", "json"])
def test_log_when_an_exception_is_logged_then_local_variables_are_not(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    telemetry.configure_logging(LogSettings(format="json" if form == "json" else "text"))
    hidden = "hush"
    try:
        raise ValueError(len(hidden))
    except ValueError:
        structlog.get_logger().exception("broken")
    output = capsys.readouterr().err
    assert "ValueError: 4" in output
    assert "hush" not in output.replace('hidden = "hush"', "")


def test_log_when_the_level_is_higher_then_less_is_logged(
    capsys: pytest.CaptureFixture[str],
) -> None:
    telemetry.configure_logging(LogSettings(level="error"))
    structlog.get_logger().warning("quiet")
    logging.getLogger("x").warning("quiet")
    assert capsys.readouterr().err == ""


def test_metrics_when_observed_then_are_rendered() -> None:
    telemetry.observe_request("GET", "/api/v1/tasks/{task_id}", 200, 0.01)
    telemetry.observe_task("completed")
    telemetry.observe_queue(3, 1)
    telemetry.observe_tokens("llama_cpp", "observed", 10, 20)
    telemetry.observe_drafts("llama_cpp", "observed", 8, 5)
    telemetry.observe_sandbox_run("exited")
    telemetry.set_build("0.1.0")
    text = telemetry.render_metrics().decode()
    for line in (
        'monkey_coder_http_requests_total{method="GET",route="/api/v1/tasks/{task_id}",status="200"}',
        'monkey_coder_tasks_total{status="completed"}',
        "monkey_coder_queue_length 3.0",
        "monkey_coder_tasks_running 1.0",
        'monkey_coder_tokens_total{kind="completion",model="observed",provider="llama_cpp"}',
        'drafted_tokens_total{model="observed",outcome="accepted",provider="llama_cpp"} 5.0',
        'drafted_tokens_total{model="observed",outcome="rejected",provider="llama_cpp"} 3.0',
        'monkey_coder_sandbox_runs_total{reason="exited"}',
        'monkey_coder_build_info{version="0.1.0"} 1.0',
    ):
        assert line in text
