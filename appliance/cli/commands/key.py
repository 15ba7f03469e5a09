"""`monkey-coder key`: API keys."""

import time
from typing import Any

import click

from appliance.cli.support.account_store import format_time, open_accounts, print_rows
from appliance.cli.support.instance import instance_options, run_async
from appliance.config.loader import Loaded
from appliance.domain.users import ApiKey, Scope

_COLUMNS = ("id", "user", "name", "prefix", "scopes", "status", "expires_at", "last_used_at")
_DAY_S = 86400.0


@click.group()
def command() -> None:
    """API keys: create, list, revoke."""


@command.command(
    epilog="\b\nExamples:\n  monkey-coder key create --user alice\n"
    "  KEY=$(monkey-coder key create --user ci --name nightly --expires-days 30)"
)
@click.option("--user", "username", required=True, help="Whose key: username or email.")
@click.option("--name", default="command line", show_default=True, help="What the key is for.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    type=click.Choice([scope.value for scope in Scope]),
    help="What the key may do; may be repeated.  [default: all that the user may do]",
)
@click.option("--expires-days", type=click.FloatRange(min=0, min_open=True), help="How long.")
@instance_options
def create(
    username: str, name: str, scopes: tuple[str, ...], expires_days: float | None, loaded: Loaded
) -> None:
    """Create an API key and print it once; only its hash is stored."""
    expires_at = None if expires_days is None else time.time() + expires_days * _DAY_S

    async def work() -> tuple[ApiKey, str]:
        async with open_accounts(loaded) as accounts:
            principal = await accounts.users.get_principal(username)
            return await accounts.keys.create(principal, name, scopes, expires_at)

    key, secret = run_async(work())
    until = f"until {format_time(key.expires_at)}" if key.expires_at else "without expiry"
    click.echo(f"{key.public_id} ({', '.join(key.scopes)}), {until}; keep the key safe:", err=True)
    click.echo(secret)


@command.command(name="list")
@click.option("--user", "username", help="Only the keys of this user.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@instance_options
def list_keys(username: str | None, as_json: bool, loaded: Loaded) -> None:
    """Print the API keys, newest first, without their secrets."""

    async def work() -> tuple[list[ApiKey], dict[int, str]]:
        async with open_accounts(loaded) as accounts:
            owners = {user.id: user.username for user in await accounts.users.list_all()}
            if username is None:
                return await accounts.keys.list_all(), owners
            return await accounts.keys.list_for_user(
                (await accounts.users.get(username)).id
            ), owners

    keys, owners = run_async(work())
    print_rows([_key_row(key, owners.get(key.user_id)) for key in keys], _COLUMNS, as_json)


@command.command()
@click.argument("key_id")
@instance_options
def revoke(key_id: str, loaded: Loaded) -> None:
    """Revoke the key KEY_ID (see `key list`), and the keys created with it."""

    async def work() -> ApiKey:
        async with open_accounts(loaded) as accounts:
            return await accounts.keys.revoke_any(key_id)

    key = run_async(work())
    click.echo(f"revoked {key.public_id} ({key.name}, {key.prefix}…)")


def _key_row(key: ApiKey, owner: str | None) -> dict[str, Any]:
    return {
        "id": key.public_id,
        "user": owner,
        "name": key.name,
        "prefix": key.prefix,
        "scopes": list(key.scopes),
        "status": key.status.value,
        "created_at": format_time(key.created_at),
        "expires_at": format_time(key.expires_at),
        "last_used_at": format_time(key.last_used_at),
        "use_count": key.use_count,
    }
