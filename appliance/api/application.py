"""The HTTP application, from its parts: shared ones first, then each dialect."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import State

from appliance import __version__
from appliance.api import anthropic, monkey, openai, piston, system
from appliance.api.http import errors
from appliance.api.http.auth import Gate
from appliance.api.http.dependencies import provided
from appliance.api.http.dialect import Dialects
from appliance.api.http.middleware import Envelope
from appliance.api.http.proxies import TrustedProxies
from appliance.api.http.rate_limit import RateLimiter
from appliance.api.http.requests import ApiRequest
from appliance.api.openai import responses
from appliance.config.settings import Settings
from appliance.services.container import Services

Lifespan = Callable[[Litestar], AbstractAsyncContextManager[None]]

_EXPOSED_HEADERS = [
    "X-Request-ID", "X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset",
    "Retry-After", "X-Process-Time", "X-Cache-Status", "X-Overhead-Ms", "X-Provider-Used",
    "X-Attempts", "Request-ID",
]  # fmt: skip


def build(services: Services, settings: Settings, *, lifespan: Sequence[Lifespan] = ()) -> Litestar:
    """The whole API over `services`."""
    dialects = Dialects(
        [
            monkey.DIALECT,
            piston.DIALECT,
            *openai.DIALECTS,
            responses.DIALECT,
            anthropic.DIALECT,
            system.DIALECT,
        ]
    )
    limiter = RateLimiter(settings.limits)
    proxies = TrustedProxies(settings.server.trusted_proxies)
    gate = Gate(services, limiter, settings.server.cors_origins)

    api = Litestar(
        route_handlers=[
            monkey.router(),
            piston.router(),
            openai.router(),
            responses.router(),
            anthropic.router(),
            system.router(metrics_public=settings.server.metrics_public),
        ],
        state=State({"gate": gate, "services": services}),
        dependencies=provided(services, settings),
        exception_handlers={Exception: errors.handler(dialects)},
        request_class=ApiRequest,
        request_max_body_size=settings.server.max_body_bytes,
        cors_config=_cors(settings.server.cors_origins),
        openapi_config=system.openapi(__version__) if settings.server.docs else None,
        lifespan=list(lifespan),
        logging_config=None,
    )
    # Around everything, so that an unmatched path is answered like any other.
    api.asgi_handler = Envelope(api.asgi_handler, dialects, limiter, proxies)
    return api


def _cors(origins: tuple[str, ...]) -> CORSConfig | None:
    if not origins:
        return None
    return CORSConfig(
        allow_origins=list(origins),
        # A browser may send cookies only to a box that names the pages that it trusts.
        allow_credentials="*" not in origins,
        expose_headers=_EXPOSED_HEADERS,
    )
