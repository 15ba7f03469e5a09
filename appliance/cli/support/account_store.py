"""Access to the accounts in the database, for the commands `user` and `key`."""

import json
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import click

from appliance.cli.support.instance import open_database
from appliance.config.loader import Loaded

if TYPE_CHECKING:
    from appliance.services.accounts.service import Accounts

_SECRET_BYTES = 32


@asynccontextmanager
async def open_accounts(loaded: Loaded) -> "AsyncGenerator[Accounts, None]":
    """Open the accounts; a running server sees changes within seconds."""
    # Imported late: `--help` should be fast.
    from appliance.services.accounts.service import build_accounts

    async with open_database(loaded) as database:
        # No command issues an access token, so any secret will do.
        secret = secrets.token_bytes(_SECRET_BYTES)
        accounts = build_accounts(database, loaded.settings.auth, secret)
        try:
            yield accounts
        finally:
            await accounts.close()


def format_time(at: float | None) -> str | None:
    """Epoch seconds as ISO 8601 in UTC, to the second."""
    if at is None:
        return None
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def print_rows(rows: Sequence[dict[str, Any]], columns: Sequence[str], as_json: bool) -> None:
    """Print all of the rows as JSON, or some columns of them as a table."""
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    lines = [[column.replace("_", " ").upper() for column in columns]]
    lines += [[_format_cell(row[column]) for column in columns] for row in rows]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    for line in lines:
        padded = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def _format_cell(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(cast("list[str]", value))
    return "-" if value is None else str(value)
