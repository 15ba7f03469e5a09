"""The table of all routes: who may call each of them, and its budgets.

`build_api` refuses a route without a row, and the guard in auth.py enforces the rows, so that no
route can be forgotten.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, cast

from litestar import Litestar
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler
from msgspec import Struct

from appliance.api.http.body_decoder import BodyDecoder
from appliance.api.http.dialect import Dialects
from appliance.config.settings import ServerSettings
from appliance.domain.users import Role, Scope

WEBSOCKET = "WEBSOCKET"
"""The method in the table of a route that is a WebSocket."""


class RouteClass(StrEnum):
    """Routes of a class share their budgets."""

    HEALTH = "health"
    OPERATIONS = "operations"
    DOCS = "docs"
    LOGIN = "login"
    ACCOUNT = "account"
    CATALOG = "catalog"
    TASKS = "tasks"
    MODEL = "model"
    SANDBOX = "sandbox"


class Budget(Struct, frozen=True):
    """`max_body_bytes`: None for server.max_body_bytes, which is the upper limit in any case."""

    max_body_bytes: int | None


class Route(Struct, frozen=True):
    """One row. A caller needs every scope of `scopes`, and `role` if there is one.

    `public` routes need no credentials. A WebSocket with `first_message` can also send them as
    its first message.
    """

    method: str
    path: str
    route_class: RouteClass
    scopes: tuple[Scope, ...] = ()
    role: Role | None = None
    public: bool = False
    first_message: bool = False


_NO_KEY_BODY_BYTES = 16 * 1024
BUDGETS: Mapping[RouteClass, Budget] = {
    RouteClass.HEALTH: Budget(_NO_KEY_BODY_BYTES),
    RouteClass.OPERATIONS: Budget(_NO_KEY_BODY_BYTES),
    RouteClass.DOCS: Budget(_NO_KEY_BODY_BYTES),
    RouteClass.LOGIN: Budget(_NO_KEY_BODY_BYTES),
    RouteClass.ACCOUNT: Budget(64 * 1024),
    RouteClass.CATALOG: Budget(64 * 1024),
    RouteClass.TASKS: Budget(None),
    RouteClass.MODEL: Budget(None),
    RouteClass.SANDBOX: Budget(None),
}

_HEALTH, _DOCS, _LOGIN = RouteClass.HEALTH, RouteClass.DOCS, RouteClass.LOGIN
_ACCOUNT, _CATALOG, _TASKS = RouteClass.ACCOUNT, RouteClass.CATALOG, RouteClass.TASKS
_MODEL, _SANDBOX, _OPERATIONS = RouteClass.MODEL, RouteClass.SANDBOX, RouteClass.OPERATIONS
_KEYS, _CHAT, _RUN = (Scope.KEYS,), (Scope.CHAT,), (Scope.SANDBOX,)
_READ, _WRITE = (Scope.TASKS_READ,), (Scope.TASKS_WRITE,)
# The answer of a task is also read.
_EXECUTE = (Scope.TASKS_WRITE, Scope.TASKS_READ)
_ADMIN = (Scope.ADMIN,)

ROUTES: tuple[Route, ...] = (
    Route("GET", "/health", _HEALTH, public=True),
    Route("HEAD", "/health", _HEALTH, public=True),
    Route("GET", "/healthz", _HEALTH, public=True),
    Route("HEAD", "/healthz", _HEALTH, public=True),
    Route("GET", "/health/readiness", _HEALTH, public=True),
    Route("GET", "/health/comprehensive", _OPERATIONS, _ADMIN, Role.ADMIN),
    Route("GET", "/metrics", _OPERATIONS, _ADMIN, Role.ADMIN),
    Route("GET", "/metrics/cache", _OPERATIONS, _ADMIN, Role.ADMIN),
    Route("GET", "/api/docs", _DOCS, public=True),
    Route("GET", "/api/docs/openapi.json", _DOCS, public=True),
    Route("GET", "/api/docs/static/{name}", _DOCS, public=True),
    Route("GET", "/api/docs/{path}", _DOCS, public=True),
    Route("POST", "/api/v1/auth/login", _LOGIN, public=True),
    Route("POST", "/api/v1/auth/refresh", _LOGIN, public=True),
    Route("POST", "/api/v1/auth/keys/dev", _LOGIN, public=True),
    Route("POST", "/api/v1/auth/logout", _ACCOUNT),
    Route("GET", "/api/v1/auth/status", _ACCOUNT),
    Route("GET", "/api/v1/auth/keys", _ACCOUNT, _KEYS),
    Route("POST", "/api/v1/auth/keys", _ACCOUNT, _KEYS),
    Route("GET", "/api/v1/auth/keys/stats", _ACCOUNT, _KEYS),
    Route("DELETE", "/api/v1/auth/keys/{key_id}", _ACCOUNT, _KEYS),
    Route("GET", "/api/v1/providers", _CATALOG),
    Route("GET", "/api/v1/models", _CATALOG),
    Route("GET", "/api/v1/capabilities", _CATALOG),
    Route("POST", "/api/v1/execute", _TASKS, _EXECUTE),
    Route("POST", "/api/v1/execute/stream", _TASKS, _EXECUTE),
    Route("POST", "/api/v1/stream/execute", _TASKS, _EXECUTE),
    Route("GET", "/api/v1/tasks", _TASKS, _READ),
    Route("GET", "/api/v1/tasks/{task_id}", _TASKS, _READ),
    Route("DELETE", "/api/v1/tasks/{task_id}", _TASKS, _WRITE),
    Route("GET", "/api/v1/tasks/{task_id}/events", _TASKS, _READ),
    Route("POST", "/api/v1/tasks/{task_id}/cancel", _TASKS, _WRITE),
    Route("GET", "/api/v1/events", _TASKS, _READ),
    Route(WEBSOCKET, "/api/v1/events", _TASKS, _READ, first_message=True),
    Route("POST", "/api/v1/sandbox/run", _SANDBOX, _RUN),
    Route("POST", "/api/v1/sandbox/run/stream", _SANDBOX, _RUN),
    Route("GET", "/api/v1/sandbox/languages", _SANDBOX, _RUN),
    Route("POST", "/api/v2/execute", _SANDBOX, _RUN),
    Route("POST", "/api/v2/piston/execute", _SANDBOX, _RUN),
    Route("GET", "/api/v2/runtimes", _SANDBOX, _RUN),
    Route("GET", "/api/v2/piston/runtimes", _SANDBOX, _RUN),
    Route("GET", "/api/v2/packages", _SANDBOX, _RUN),
    Route("GET", "/api/v2/piston/packages", _SANDBOX, _RUN),
    Route("POST", "/api/v2/packages", _SANDBOX, _RUN),
    Route("POST", "/api/v2/piston/packages", _SANDBOX, _RUN),
    Route(WEBSOCKET, "/api/v2/connect", _SANDBOX, _RUN),
    Route(WEBSOCKET, "/api/v2/piston/connect", _SANDBOX, _RUN),
    Route("GET", "/v1/models", _CATALOG),
    Route("GET", "/v1/models/{model}", _CATALOG),
    Route("POST", "/v1/chat/completions", _MODEL, _CHAT),
    Route("POST", "/v1/completions", _MODEL, _CHAT),
    Route("POST", "/v1/embeddings", _MODEL, _CHAT),
    Route("POST", "/v1/responses", _MODEL, _CHAT),
    Route("POST", "/v1/responses/input_tokens", _MODEL, _CHAT),
    Route("POST", "/v1/messages", _MODEL, _CHAT),
    Route("POST", "/v1/messages/count_tokens", _MODEL, _CHAT),
)


class RoutePolicy(Struct, frozen=True):
    """A row as the server enforces it: with its settings and the decoder of the route's body."""

    route: Route
    dialect: str
    public: bool
    max_body_bytes: int
    decoder: BodyDecoder | None


class RouteTable:
    """The policies of the application's routes. Raises LookupError for a route without a row."""

    def __init__(self, api: Litestar, settings: ServerSettings, dialects: Dialects) -> None:
        rows = {(row.method, row.path): row for row in ROUTES}
        self._policies = {
            (method, path): _policy(rows[method, path], handler, settings, dialects)
            for method, path, handler in served_routes(api)
        }

    def find(self, method: str, path: str) -> RoutePolicy:
        """The policy of a route by its method (or WEBSOCKET) and path template."""
        return self._policies[method, path]


def served_routes(api: Litestar) -> Iterator[tuple[str, str, BaseRouteHandler]]:
    """Method, path and handler of every route, but for OPTIONS, which Litestar answers itself."""
    for route in api.routes:
        handlers: Iterable[BaseRouteHandler] = getattr(route, "route_handlers", None) or [
            cast("Any", route).route_handler
        ]
        for handler in handlers:
            methods = handler.http_methods if isinstance(handler, HTTPRouteHandler) else {WEBSOCKET}
            for method in methods:
                if method != "OPTIONS":
                    yield str(method), route.path_format, handler


def _policy(
    row: Route, handler: BaseRouteHandler, settings: ServerSettings, dialects: Dialects
) -> RoutePolicy:
    budget = BUDGETS[row.route_class].max_body_bytes
    return RoutePolicy(
        route=row,
        dialect=dialects.for_path(row.path).name,
        public=row.public or (row.route_class is RouteClass.OPERATIONS and settings.metrics_public),
        max_body_bytes=min(budget or settings.max_body_bytes, settings.max_body_bytes),
        decoder=BodyDecoder.for_handler(handler),
    )
