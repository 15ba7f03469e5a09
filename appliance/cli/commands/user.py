"""`monkey-coder user`: the user accounts."""

import sys
from typing import Any

import click

from appliance.cli.support.account_store import format_time, open_accounts, print_rows
from appliance.cli.support.instance import instance_options, run_async
from appliance.config.loader import Loaded
from appliance.domain.users import DEFAULT_PLAN, Role, User
from appliance.services.accounts import validation

_COLUMNS = ("username", "role", "status", "plan", "email", "name", "created_at")
_from_stdin = click.option(
    "--password-stdin", is_flag=True, help="Read the password from the first line of stdin."
)


@click.group()
def command() -> None:
    """User accounts: list, add, passwd, plan, disable."""


@command.command(
    epilog="\b\nExamples:\n  monkey-coder user add alice --email alice@example.com --role admin\n"
    "  pass show bob | monkey-coder user add bob --password-stdin"
)
@click.argument("username")
@click.option("--email", help="Email address, for logging in.  [default: USERNAME@localhost]")
@click.option("--name", help="Name to show.  [default: USERNAME]")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.DEVELOPER.value,
    show_default=True,
)
@click.option("--plan", default=DEFAULT_PLAN, show_default=True, help="Whose limits hold.")
@_from_stdin
@instance_options
def add(
    *,
    username: str,
    email: str | None,
    name: str | None,
    role: str,
    plan: str,
    password_stdin: bool,
    loaded: Loaded,
) -> None:
    """Add a user. Asks for the password, which is never an argument."""
    username = validation.validate_username(username)
    email = validation.validate_email(email or f"{username}@localhost")
    plan = validation.validate_plan(plan)
    password = _read_password(password_stdin)

    async def work() -> User:
        async with open_accounts(loaded) as accounts:
            return await accounts.users.add(
                username=username,
                email=email,
                name=name or username,
                role=Role(role),
                password=password,
                plan=plan,
            )

    user = run_async(work())
    click.echo(f"added the user {user.username} ({user.role}, {user.email})")
    _warn_unknown_plan(user, loaded)


@command.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@instance_options
def list_users(as_json: bool, loaded: Loaded) -> None:
    """Print all users."""

    async def work() -> list[User]:
        async with open_accounts(loaded) as accounts:
            return await accounts.users.list_all()

    print_rows([_user_row(user) for user in run_async(work())], _COLUMNS, as_json)


@command.command()
@click.argument("username")
@_from_stdin
@instance_options
def passwd(username: str, password_stdin: bool, loaded: Loaded) -> None:
    """Change a user's password. Ends the sessions of the user; API keys stay valid."""
    # Look the user up before asking for a password twice.
    run_async(_find_user(loaded, username))
    password = _read_password(password_stdin)

    async def work() -> User:
        async with open_accounts(loaded) as accounts:
            return await accounts.users.set_password(username, password)

    user = run_async(work())
    click.echo(f"changed the password of {user.username}; all sessions are ended")


@command.command(epilog="Example: monkey-coder user plan alice pro")
@click.argument("username")
@click.argument("plan")
@instance_options
def plan(username: str, plan: str, loaded: Loaded) -> None:
    """Change a user's plan; the limits of [plans.PLAN] in the settings apply."""

    async def work() -> User:
        async with open_accounts(loaded) as accounts:
            return await accounts.users.set_plan(username, plan)

    user = run_async(work())
    click.echo(f"{user.username} has the plan {user.plan}")
    _warn_unknown_plan(user, loaded)


@command.command()
@click.argument("username")
@instance_options
def disable(username: str, loaded: Loaded) -> None:
    """Disable a user: sessions end, API keys stop working."""
    user = run_async(_set_disabled(loaded, username, True))
    click.echo(f"disabled {user.username}; sessions are ended, API keys stopped")


@command.command()
@click.argument("username")
@instance_options
def enable(username: str, loaded: Loaded) -> None:
    """Enable a user: logins and API keys work again."""
    user = run_async(_set_disabled(loaded, username, False))
    click.echo(f"enabled {user.username}")


def _warn_unknown_plan(user: User, loaded: Loaded) -> None:
    if user.plan not in loaded.settings.plans and user.plan != DEFAULT_PLAN:
        click.echo(f"the settings have no [plans.{user.plan}]: the general limits apply", err=True)


async def _find_user(loaded: Loaded, username: str) -> User:
    async with open_accounts(loaded) as accounts:
        return await accounts.users.get(username)


async def _set_disabled(loaded: Loaded, username: str, disabled: bool) -> User:
    async with open_accounts(loaded) as accounts:
        return await accounts.users.set_disabled(username, disabled)


def _read_password(from_stdin: bool) -> str:
    """Read and validate a new password. Raises UsageError, InvalidInput."""
    if from_stdin:
        line = sys.stdin.readline(validation.PASSWORD_MAX_BYTES + 2)
        return validation.validate_password(line.removesuffix("\n").removesuffix("\r"))
    if not sys.stdin.isatty():
        raise click.UsageError("there is no terminal to ask for the password: use --password-stdin")
    typed: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return validation.validate_password(typed)


def _user_row(user: User) -> dict[str, Any]:
    return {
        "id": user.public_id,
        "username": user.username,
        "email": user.email,
        "name": user.name,
        "role": user.role.value,
        "plan": user.plan,
        "status": "disabled" if user.disabled else "active",
        "created_at": format_time(user.created_at),
    }
