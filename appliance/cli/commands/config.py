"""`monkey-coder config`: what the settings are, and where each comes from."""

import json
from collections.abc import Iterator
from typing import Any, cast

import click

from appliance.cli.support.instance import box_options, data_dir
from appliance.config.loader import Loaded, shown
from appliance.config.settings import Setting, values


@click.group()
def command() -> None:
    """Show the settings and where each comes from."""


@command.command(
    epilog="\b\nExamples:\n  monkey-coder config show --origin\n"
    "  monkey-coder config show --json --data-dir /srv/box"
)
@box_options
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(loaded: Loaded, origin: bool, as_json: bool) -> None:
    """Print every setting as it is in force, secrets masked."""
    if as_json:
        click.echo(json.dumps(_as_json(loaded), indent=2, default=str))
        return
    click.echo(f"# configuration file: {toml(str(loaded.file)) if loaded.file else 'none'}")
    click.echo(f"# data directory: {toml(str(data_dir(loaded.settings)))}")
    section = ""
    for setting, value in _values(loaded):
        table, _, key = setting.name.rpartition(".")
        if table != section:
            section = table
            click.echo(f"\n[{table}]")
        comment = f"  # {loaded.origins[setting.name]}" if origin else ""
        click.echo(f"{key} = {toml(value)}{comment}")


def toml(value: Any) -> str:
    """One value as TOML writes it; JSON agrees with TOML on all other types of a setting."""
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in pairs) + " }"
    # A plugin's own settings may hold what JSON does not know: dates and times.
    return json.dumps(value, ensure_ascii=False, default=str)


def _as_json(loaded: Loaded) -> dict[str, Any]:
    return {
        setting.name: {"value": value, "origin": loaded.origins[setting.name]}
        for setting, value in _values(loaded)
    }


def _values(loaded: Loaded) -> Iterator[tuple[Setting, Any]]:
    """Each setting with the value in force, masked where it is a secret."""
    for setting, value in values(loaded.settings):
        yield setting, shown(setting, value)
