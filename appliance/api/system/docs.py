"""/api/docs: Swagger UI with all of its assets served from here, and openapi.json."""

import asyncio
import hashlib
from functools import cache
from importlib.resources import files
from typing import Any, cast

from litestar import Request, Response, Router, get
from litestar._openapi.plugin import OpenAPIPlugin
from litestar.datastructures import ResponseHeader
from litestar.enums import MediaType
from litestar.exceptions import NotFoundException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from litestar.params import FromPath

DOCS = "/api/docs"
_STATIC = f"{DOCS}/static/"
_ASSETS = {
    "swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "docs.css": "text/css; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
}
_PAGE = "docs.html"
# No external resources. Swagger UI sets styles by script, hence unsafe-inline.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


class DocsPage(OpenAPIRenderPlugin):
    """The HTML page, which loads openapi.json."""

    def __init__(self) -> None:
        super().__init__(path="/")

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002
        return _read(_PAGE)

    def receive_router(self, router: Router) -> None:
        router.register(asset)


class Document(JsonRenderPlugin):
    """openapi.json, encoded once."""

    def __init__(self) -> None:
        super().__init__(media_type=MediaType.JSON)
        self._encoded = b""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        if not self._encoded:
            self._encoded = cast("Any", self).render_json(request, openapi_schema)
        return self._encoded


class SchemaBuild:
    """Hook of requests for the docs: builds the schema once, in a thread.

    Litestar would build it in the event loop, at the first request for the page or the document.
    """

    def __init__(self) -> None:
        self._build: asyncio.Task[dict[str, Any]] | None = None

    async def __call__(self, request: Request[Any, Any, Any]) -> None:
        if request.scope["path"].startswith(_STATIC):
            return
        if self._build is None or (self._build.done() and self._build.exception()):
            plugin = request.app.plugins.get(OpenAPIPlugin)
            self._build = asyncio.create_task(asyncio.to_thread(plugin.provide_openapi_schema))
        # Shielded: a client that goes away does not end the build for the others.
        await asyncio.shield(self._build)


@get("/static/{name:str}", sync_to_thread=False)
def asset(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes | None]:
    """A file of the page. Browsers cache it and revalidate it by its ETag."""
    if name not in _ASSETS:
        raise NotFoundException
    content = _read(name)
    tag = _entity_tag(name)
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(None, status_code=304, headers=headers)
    return Response(content, media_type=_ASSETS[name], headers=headers)


def config(version: str) -> OpenAPIConfig:
    """The configuration of the OpenAPI document."""
    return OpenAPIConfig(
        title="Monkey Coder",
        version=version,
        description="A coding task in, verified code out. Everything runs on this server.",
        path=DOCS,
        openapi_router=Router(
            DOCS,
            route_handlers=[],
            include_in_schema=False,
            before_request=SchemaBuild(),
            response_headers=[ResponseHeader(name="Content-Security-Policy", value=_POLICY)],
        ),
        use_handler_docstrings=True,
        render_plugins=[DocsPage(), Document()],
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(
                    type="http", scheme="bearer", description="An access token or an mk- key."
                ),
                "key": SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header"),
            }
        ),
        security=[{"bearer": []}, {"key": []}],
    )


@cache
def _read(name: str) -> bytes:
    return (files("appliance.api.system") / "static" / name).read_bytes()


@cache
def _entity_tag(name: str) -> str:
    return f'"{hashlib.sha256(_read(name)).hexdigest()[:32]}"'
