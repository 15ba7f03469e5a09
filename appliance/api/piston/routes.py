"""Every route of this dialect, under /api/v2 and, as Piston's public servers, /api/v2/piston."""

from typing import Any

from litestar import Request, Router, get, post
from litestar.params import JSONBody

from appliance.api.http.auth import authenticated
from appliance.api.http.dependencies import ServicesDependency
from appliance.api.http.requests import principal_of
from appliance.api.piston import connect, convert, run_follower
from appliance.api.piston.errors import PREFIX
from appliance.api.piston.schemas import (
    ExecuteAnswer,
    ExecuteBody,
    PackageAnswer,
    PackageBody,
    PackageEntry,
    RuntimeAnswer,
)
from appliance.api.streaming.disconnect import unless_gone

AnyRequest = Request[Any, Any, Any]


@post(["/execute", "/piston/execute"], status_code=200)
async def execute(
    request: AnyRequest, data: JSONBody[ExecuteBody], services: ServicesDependency
) -> ExecuteAnswer:
    """Build (where the language needs it) and run a program; stdin, args and limits go along."""
    principal = principal_of(request)
    offer = await services.sandbox.offer_with(principal, lambda now: convert.has(data, now))
    events = services.sandbox.events(principal, convert.program(data, offer))
    return await unless_gone(request, run_follower.whole(events))


@get(["/runtimes", "/piston/runtimes"])
async def list_runtimes(request: AnyRequest, services: ServicesDependency) -> list[RuntimeAnswer]:
    """The languages that can be run here, once each has been tried."""
    return convert.runtimes(await services.sandbox.ready_offer(principal_of(request)))


@get(["/packages", "/piston/packages"])
async def list_packages(request: AnyRequest, services: ServicesDependency) -> list[PackageEntry]:
    """The same languages as packages, for clients that look whether one is installed."""
    return convert.packages(await services.sandbox.ready_offer(principal_of(request)))


@post(["/packages", "/piston/packages"], status_code=200)
async def install_package(
    request: AnyRequest, data: JSONBody[PackageBody], services: ServicesDependency
) -> PackageAnswer:
    """Answer for what is there already; nothing can be installed over HTTP."""
    return convert.package(data, await services.sandbox.ready_offer(principal_of(request)))


def router() -> Router:
    """/api/v2."""
    return Router(
        PREFIX,
        route_handlers=[
            execute, list_runtimes, list_packages, install_package, connect.connect,
        ],
        guards=[authenticated],
        tags=["Piston"],
    )  # fmt: skip
