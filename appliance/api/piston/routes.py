"""The routes of this dialect, below /api/v2 and, as on Piston's public server, /api/v2/piston."""

from typing import Any

from litestar import Request, Router, get, post
from litestar.params import JSONBody

from appliance.api.http.dependencies import ServicesDependency
from appliance.api.http.requests import get_principal
from appliance.api.piston import connect_route, convert, run_follower
from appliance.api.piston.errors import PREFIX
from appliance.api.piston.schemas import (
    ExecuteAnswer,
    ExecuteBody,
    PackageAnswer,
    PackageBody,
    PackageEntry,
    RuntimeAnswer,
)
from appliance.api.streaming.disconnect import cancel_on_disconnect

AnyRequest = Request[Any, Any, Any]


@post(["/execute", "/piston/execute"], status_code=200)
async def execute(
    request: AnyRequest, data: JSONBody[ExecuteBody], services: ServicesDependency
) -> ExecuteAnswer:
    """Compile (if the language needs it) and run a program, with stdin, args and limits."""
    principal = get_principal(request)
    capabilities = await services.sandbox.describe_sufficient(
        principal, lambda now: convert.has_runtime(data, now)
    )
    events = services.sandbox.events(principal, convert.convert_program(data, capabilities))
    return await cancel_on_disconnect(request.receive, run_follower.collect_answer(events))


@get(["/runtimes", "/piston/runtimes"])
async def list_runtimes(request: AnyRequest, services: ServicesDependency) -> list[RuntimeAnswer]:
    """The available languages, once each has been tested."""
    return convert.runtime_answers(await services.sandbox.describe_ready(get_principal(request)))


@get(["/packages", "/piston/packages"])
async def list_packages(request: AnyRequest, services: ServicesDependency) -> list[PackageEntry]:
    """The available languages as installed packages."""
    return convert.package_entries(await services.sandbox.describe_ready(get_principal(request)))


@post(["/packages", "/piston/packages"], status_code=200)
async def install_package(
    request: AnyRequest, data: JSONBody[PackageBody], services: ServicesDependency
) -> PackageAnswer:
    """Succeed if the package is installed already; nothing can be installed over HTTP."""
    return convert.installed_package(
        data, await services.sandbox.describe_ready(get_principal(request))
    )


def router() -> Router:
    """The router of /api/v2."""
    return Router(
        PREFIX,
        route_handlers=[
            execute, list_runtimes, list_packages, install_package, connect_route.connect,
        ],
        tags=["Piston"],
    )  # fmt: skip
