"""Structured logs on stderr and Prometheus metrics."""

import logging
import re
import sys
from collections.abc import Callable, MutableMapping
from typing import Any, TypeVar, cast

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from appliance.config.settings import LogSettings

_SECRET_NAME = re.compile(
    r"(secret|password|passwd|authorization|cookie|credential|api[-_]?key|jwt)", re.I
)
_TOKEN_NAME = re.compile(r"(^|_)token$", re.I)
_API_KEY = re.compile(r"\bmk-[A-Za-z0-9_-]{8,}")
_MASK = "********"

REGISTRY = CollectorRegistry()
HTTP_REQUESTS = Counter(
    "monkey_coder_http_requests",
    "Requests answered.",
    ["method", "route", "status"],
    registry=REGISTRY,
)
HTTP_SECONDS = Histogram(
    "monkey_coder_http_request_duration_seconds",
    "Time to the end of a response.",
    ["method", "route"],
    registry=REGISTRY,
)
TASKS = Counter(
    "monkey_coder_tasks", "Tasks that reached a final status.", ["status"], registry=REGISTRY
)
QUEUE_LENGTH = Gauge("monkey_coder_queue_length", "Queued tasks.", registry=REGISTRY)
TASKS_RUNNING = Gauge("monkey_coder_tasks_running", "Running tasks.", registry=REGISTRY)
TOKENS = Counter(
    "monkey_coder_tokens",
    "Tokens of finished completions.",
    ["provider", "model", "kind"],
    registry=REGISTRY,
)
DRAFTED_TOKENS = Counter(
    "monkey_coder_drafted_tokens",
    "Tokens drafted by speculative decoding, by whether they were accepted.",
    ["provider", "model", "outcome"],
    registry=REGISTRY,
)
ATTEMPTS = Counter(
    "monkey_coder_provider_attempts",
    "Attempts at providers by outcome; ok: the answer began.",
    ["provider", "outcome"],
    registry=REGISTRY,
)
FIRST_TOKEN_SECONDS = Histogram(
    "monkey_coder_first_token_seconds",
    "Time from a request to the first event of its answer, including waiting.",
    ["provider", "model"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
    registry=REGISTRY,
)
COST = Counter(
    "monkey_coder_cost",
    "Cost of completions in the currency of the configured prices.",
    ["provider", "model"],
    registry=REGISTRY,
)
COMPLETIONS_WAITING = Gauge("monkey_coder_gate_waiting", "Waiting completions.", registry=REGISTRY)
COMPLETIONS_RUNNING = Gauge("monkey_coder_gate_running", "Running completions.", registry=REGISTRY)
RESPONSE_CACHE = Counter(
    "monkey_coder_response_cache",
    "Completions by response cache status.",
    ["status"],
    registry=REGISTRY,
)
SANDBOX_RUNS = Counter(
    "monkey_coder_sandbox_runs", "Sandbox runs by end reason.", ["reason"], registry=REGISTRY
)
CONNECTIONS = Gauge("monkey_coder_connections", "Open HTTP connections.", registry=REGISTRY)
CONNECTIONS_ENDED = Counter(
    "monkey_coder_connections_ended",
    "Connections that the server ended, by reason.",
    ["reason"],
    registry=REGISTRY,
)
BUILD = Gauge("monkey_coder_build_info", "Always 1.", ["version"], registry=REGISTRY)

MetricT = TypeVar("MetricT", Counter, Gauge, Histogram)
_series_by_labels: dict[tuple[Any, ...], Any] = {}


def configure_logging(settings: LogSettings) -> None:
    """Send our log and the standard library's to stderr, in the configured format."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(settings),
            ],
        )
    )
    handler.addFilter(_is_safe)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


def _is_safe(record: logging.LogRecord) -> bool:
    """Whether it is our own entry, or a warning: libraries log values at lower levels.

    aiosqlite logs each statement with its parameters, httpcore each header.
    """
    return isinstance(record.msg, dict) or record.levelno >= logging.WARNING


def _renderers(settings: LogSettings) -> list[Any]:
    if settings.format == "json":
        return [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ]
    # The rich formatter would print local variables, and secrets with them.
    plain = structlog.dev.plain_traceback
    return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain)]


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Mask values with the name of a secret, also in nested dictionaries, and API keys anywhere."""
    return {name: _masked(name, value) for name, value in event.items()}


def _masked(name: str, value: Any) -> Any:
    if _SECRET_NAME.search(name) or _TOKEN_NAME.search(name):
        return _MASK
    if isinstance(value, str):
        return _API_KEY.sub("mk-" + _MASK, value)
    if isinstance(value, dict):
        inner = cast("dict[Any, Any]", value)
        return {key: _masked(str(key), each) for key, each in inner.items()}
    return value


def _series(metric: MetricT, *labels: str) -> MetricT:
    """The series with these labels, cached: the library's own look-up is ten times slower."""
    key = (metric, *labels)
    if key not in _series_by_labels:
        _series_by_labels[key] = metric.labels(*labels)
    return _series_by_labels[key]


def observe_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count one answered request; `route` is the path template, never the path itself."""
    _series(HTTP_REQUESTS, method, route, str(status)).inc()
    _series(HTTP_SECONDS, method, route).observe(seconds)


def observe_task(status: str) -> None:
    """Count a task that reached a final status."""
    _series(TASKS, status).inc()


def observe_queue(queued: int, running: int) -> None:
    QUEUE_LENGTH.set(queued)
    TASKS_RUNNING.set(running)


def observe_tokens(provider: str, model: str, prompt: int, completion: int) -> None:
    """Count the tokens of one completion."""
    _series(TOKENS, provider, model, "prompt").inc(prompt)
    _series(TOKENS, provider, model, "completion").inc(completion)


def observe_drafts(provider: str, model: str, drafted: int, accepted: int) -> None:
    """Count the drafted tokens of one completion, accepted and rejected."""
    _series(DRAFTED_TOKENS, provider, model, "accepted").inc(accepted)
    _series(DRAFTED_TOKENS, provider, model, "rejected").inc(drafted - accepted)


def observe_attempt(provider: str, error: str) -> None:
    """Count one attempt at a provider by the code of its error; "" if it began to answer."""
    _series(ATTEMPTS, provider, error.lower() or "ok").inc()


def observe_first_token(provider: str, model: str, seconds: float) -> None:
    """Record the time to the first event of an answer."""
    _series(FIRST_TOKEN_SECONDS, provider, model).observe(seconds)


def observe_cost(provider: str, model: str, cost: float) -> None:
    """Add the cost of one completion."""
    _series(COST, provider, model).inc(cost)


def watch_completion_queue(waiting: Callable[[], int], running: Callable[[], int]) -> None:
    """Read the gauges of the completion queue from these functions."""
    COMPLETIONS_WAITING.set_function(waiting)
    COMPLETIONS_RUNNING.set_function(running)


def observe_cache(status: str) -> None:
    """Count one completion by its CacheStatus."""
    _series(RESPONSE_CACHE, status.lower()).inc()


def observe_sandbox_run(reason: str) -> None:
    """Count one sandbox run by its EndReason."""
    _series(SANDBOX_RUNS, reason).inc()


def set_connections(number: int) -> None:
    CONNECTIONS.set(number)


def observe_connection_ended(reason: str) -> None:
    """Count one connection that the server ended, by its EndReason."""
    _series(CONNECTIONS_ENDED, reason).inc()


def set_build(version: str) -> None:
    _series(BUILD, version).set(1)


def render_metrics() -> bytes:
    """Everything in Prometheus' text format."""
    return generate_latest(REGISTRY)
