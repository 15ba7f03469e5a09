"""Every route of this dialect."""

from litestar import Router

from appliance.api.http.auth import authenticated, public
from appliance.api.monkey.auth_routes import login, logout, refresh, status
from appliance.api.monkey.catalog_routes import get_capabilities, list_models, list_providers
from appliance.api.monkey.errors import PREFIX
from appliance.api.monkey.execute_routes import execute, execute_stream
from appliance.api.monkey.key_routes import (
    create_dev_key,
    create_key,
    key_stats,
    list_keys,
    revoke_key,
)
from appliance.api.monkey.sandbox_routes import list_languages, run_program, stream_program
from appliance.api.monkey.task_routes import cancel_task, get_task, list_tasks, task_events


def router() -> Router:
    """/api/v1."""
    keys = Router("/keys", route_handlers=[create_key, list_keys, key_stats, revoke_key])
    tasks = Router("/tasks", route_handlers=[list_tasks, get_task, cancel_task, task_events])
    open_to_all = Router(
        "/auth",
        route_handlers=[login, refresh, Router("/keys", route_handlers=[create_dev_key])],
        guards=[public],
        tags=["Authentication"],
    )
    account = Router(
        "/auth",
        route_handlers=[logout, status, keys],
        guards=[authenticated],
        tags=["Authentication"],
    )
    work = Router(
        "/",
        route_handlers=[execute, execute_stream, tasks],
        guards=[authenticated],
        tags=["Tasks"],
    )
    catalog = Router(
        "/",
        route_handlers=[list_providers, list_models, get_capabilities],
        guards=[authenticated],
        tags=["Catalog"],
    )
    sandbox = Router(
        "/sandbox",
        route_handlers=[run_program, stream_program, list_languages],
        guards=[authenticated],
        tags=["Sandbox"],
    )
    return Router(PREFIX, route_handlers=[open_to_all, account, work, catalog, sandbox])
