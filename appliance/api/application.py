"""Builds the HTTP application of the dialects and of what they share.

Litestar is pinned below 3. These places rely on more than its public API; check them when it
is upgraded:

- here: `Litestar.asgi_handler` is wrapped in RequestMiddleware, outside the router.
- http/middleware.py: changes `scope["path"]` and `scope["client"]` before routing.
- http/request_context.py: reads `route_handler` and `path_template` from the scope; writes
  keys of its own to `scope["state"]`. http/auth.py sets `scope["user"]`.
- http/requests.py: `Request._body` and `Request._connection_state` cache the body;
  `Request.form` reads it from there.
- http/route_table.py: reads `route_handler` and `route_handlers` of routes; http/body_decoder.py
  reads the annotation of `data` from `parsed_fn_signature`.
- http/fast_route.py: overrides `HTTPRouteHandler.authorize_connection`; calls
  `resolve_guards`, whose annotation is incomplete.
- http/errors.py, http/validation.py: parse `ValidationException.extra` and its messages.
- openapi.py: OptionalBody changes the request body of an operation that is already built.
- system/docs.py: registers a route in `OpenAPIRenderPlugin.receive_router`; builds the schema with
  `OpenAPIPlugin.provide_openapi_schema`, which keeps it.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import State

from appliance import __version__
from appliance.api import anthropic, monkey, openai, piston, system
from appliance.api.http import errors
from appliance.api.http.access_log import AccessLog
from appliance.api.http.admission import Admission
from appliance.api.http.auth import GuardState, enforce_route_policy
from appliance.api.http.body_deadline import BodyDeadlines
from appliance.api.http.dependencies import application_dependencies
from appliance.api.http.dialect import Dialects
from appliance.api.http.handshakes import HandshakeFilter, keep_guard_error
from appliance.api.http.middleware import RequestMiddleware
from appliance.api.http.open_streams import OpenStreams
from appliance.api.http.proxies import TrustedProxies
from appliance.api.http.rate_limit import RateLimiter, build_policy
from appliance.api.http.requests import ApiRequest
from appliance.api.http.route_table import RouteTable
from appliance.config.settings import Settings
from appliance.services.container import Services

Lifespan = Callable[[Litestar], AbstractAsyncContextManager[None]]

_EXPOSED_HEADERS = [
    "X-Request-ID", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset",
    "Retry-After", "X-Process-Time", "X-Cache-Status", "X-Overhead-Ms", "X-Provider-Used",
    "X-Attempts", "X-Ignored-Fields", "Request-ID",
]  # fmt: skip


def build_api(
    services: Services, settings: Settings, *, lifespan: Sequence[Lifespan] = ()
) -> Litestar:
    """The application over `services`."""
    dialects = Dialects(
        [
            monkey.DIALECT,
            piston.DIALECT,
            openai.DIALECT,
            anthropic.DIALECT,
            system.DIALECT,
        ]
    )
    limiter = RateLimiter(build_policy(settings.limits), services.rate_windows)
    proxies = TrustedProxies(settings.server.trusted_proxies)
    access_log = AccessLog(settings.log)

    api = Litestar(
        route_handlers=[
            monkey.router(),
            piston.router(),
            openai.router(),
            anthropic.router(),
            system.router(),
        ],
        guards=[enforce_route_policy],
        state=State({"services": services}),
        dependencies=application_dependencies(services, settings),
        after_exception=[keep_guard_error],
        exception_handlers={Exception: errors.exception_handler(dialects)},
        request_class=ApiRequest,
        request_max_body_size=None,  # each route has its own: see ApiRequest.body
        cors_config=_cors(settings.server.cors_origins),
        openapi_config=system.openapi(__version__) if settings.server.docs else None,
        lifespan=list(lifespan),
        on_shutdown=[access_log.flush],
        logging_config=None,
    )
    routes = RouteTable(api, settings.server, dialects)
    api.state["guard_state"] = GuardState(routes, services, limiter, settings.server.cors_origins)
    # Outside the router, so that it handles unmatched paths, too.
    api.asgi_handler = RequestMiddleware(
        HandshakeFilter(api.asgi_handler, dialects),
        dialects,
        limiter=limiter,
        proxies=proxies,
        admission=Admission(settings.server.connections_per_address, proxies.trusts),
        deadlines=BodyDeadlines(settings.server),
        streams=OpenStreams(services.accounts),
        access_log=access_log,
    )
    return api


def _cors(origins: tuple[str, ...]) -> CORSConfig | None:
    if not origins:
        return None
    return CORSConfig(
        allow_origins=list(origins),
        # Cookies are allowed only if the trusted origins are listed by name.
        allow_credentials="*" not in origins,
        expose_headers=_EXPOSED_HEADERS,
    )
