"""The fields of answers that are always the same, each with the reason; at most MAX_CONSTANTS."""

from collections.abc import Sequence
from fnmatch import fnmatchcase

from msgspec import Struct

MAX_CONSTANTS = 15


class Constant(Struct, frozen=True):
    """Fields of routes (patterns with `*`), and why they have one value."""

    routes: tuple[str, ...]
    fields: tuple[str, ...]
    reason: str

    def matches(self, route: str, path: str) -> bool:
        in_routes = any(fnmatchcase(route, each) for each in self.routes)
        return in_routes and any(fnmatchcase(path, each) for each in self.fields)


CONSTANTS: Sequence[Constant] = (
    Constant(
        ("GET /health", "GET /health/comprehensive", "GET /api/v1/capabilities"),
        ("version",),
        "that of the program; the test runs one version",
    ),
    Constant(
        ("GET /health", "GET /health/comprehensive"),
        ("service",),
        "clients of Codeep recognise the product by it",
    ),
    Constant(("GET /healthz",), ("status",), "a process that is not alive does not answer"),
    Constant(
        ("GET /api/v1/auth/status",),
        ("authenticated",),
        "the guide to the API shows it; without credentials the answer is 401",
    ),
    Constant(
        ("POST /api/v1/auth/login", "POST /api/v1/auth/refresh"),
        ("token_type",),
        "OAuth 2.0 (RFC 6750) requires it, and there is one type of token",
    ),
    Constant(("POST /api/v1/auth/logout",), ("message",), "the only outcome that is no error"),
    Constant(
        ("POST /api/v1/auth/keys", "POST /api/v1/auth/keys/dev", "DELETE /api/v1/auth/keys/*"),
        ("status", "name", "permissions[[]]"),
        "the guide shows a new key with its status, and the development key word for word",
    ),
    Constant(
        ("POST /api/v1/sandbox/run*", "GET /api/v1/sandbox/languages", "GET /api/v1/capabilities"),
        ("isolation.*", "sandbox.degraded", "live"),
        "a property of the machine: its one backend, and the layers that it has",
    ),
    Constant(
        ("POST /api/v1/sandbox/run", "POST /api/v2/execute"),
        ("build.reason", "build.signal", "build.stdout", "compile.signal", "compile.stdout"),
        "gcc, the compiler of this test, writes to stderr and exits when its parts are killed",
    ),
    Constant(("GET /api/v2/packages",), ("[[]].installed",), "Piston's clients read it"),
    Constant(
        ("POST /v1/chat/completions*",),
        ("choices[[]].*refusal",),
        "OpenAI's schema requires it; a refusal is passed on as text with its finish_reason",
    ),
    Constant(
        ("GET /v1/models*",),
        ("has_more", "*lifecycle"),
        "Anthropic's client requires them: all models are on one page, and none is retired",
    ),
    Constant(
        ("POST /v1/messages*",),
        ("usage.cache_creation_input_tokens",),
        "Anthropic's clients add it up; storing a prefix costs nothing here",
    ),
    Constant(
        ("POST /v1/messages, events",),
        ("content_block.text", "content_block.input"),
        "Anthropic's streams begin a block empty; its content comes in deltas",
    ),
    Constant(
        ("POST /v1/responses*",),
        ("*annotations", "content_index", "usage.input_tokens_details.cache_write_tokens"),
        "OpenAI's client requires them: one part of text without annotations, no paid cache",
    ),
)
