"""The routes of this dialect."""

from litestar import Router

from appliance.api.monkey.account_routes import (
    create_dev_key,
    create_key,
    key_stats,
    list_keys,
    login,
    logout,
    refresh,
    revoke_key,
    status,
)
from appliance.api.monkey.catalog_routes import get_capabilities, list_models, list_providers
from appliance.api.monkey.errors import PREFIX
from appliance.api.monkey.feed_routes import user_events, user_events_socket
from appliance.api.monkey.sandbox_routes import list_languages, run_program, stream_program
from appliance.api.monkey.task_routes import (
    cancel_task,
    delete_task,
    execute,
    execute_stream,
    get_task,
    list_tasks,
    task_events,
)


def router() -> Router:
    """The router of /api/v1."""
    keys = Router("/keys", route_handlers=[create_key, list_keys, key_stats, revoke_key])
    tasks = Router(
        "/tasks", route_handlers=[list_tasks, get_task, delete_task, cancel_task, task_events]
    )
    anonymous = Router(
        "/auth",
        route_handlers=[login, refresh, Router("/keys", route_handlers=[create_dev_key])],
        tags=["Authentication"],
    )
    account = Router(
        "/auth",
        route_handlers=[logout, status, keys],
        tags=["Authentication"],
    )
    tasks_and_execute = Router(
        "/",
        route_handlers=[execute, execute_stream, tasks, user_events, user_events_socket],
        tags=["Tasks"],
    )
    catalog = Router(
        "/",
        route_handlers=[list_providers, list_models, get_capabilities],
        tags=["Catalog"],
    )
    sandbox = Router(
        "/sandbox",
        route_handlers=[run_program, stream_program, list_languages],
        tags=["Sandbox"],
    )
    return Router(PREFIX, route_handlers=[anonymous, account, tasks_and_execute, catalog, sandbox])
