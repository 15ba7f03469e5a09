"""`monkey-coder config`: the effective settings and the origin of each."""

import json
from collections.abc import Iterator
from typing import Any, cast

import click

from appliance.cli.support.instance import data_dir, instance_options
from appliance.config.loader import Loaded, mask_secrets
from appliance.config.settings import Setting, iter_values


@click.group()
def command() -> None:
    """Show the settings and where each comes from."""


@command.command(
    epilog="\b\nExamples:\n  monkey-coder config show --origin\n"
    "  monkey-coder config show --json --data-dir /srv/monkey-coder"
)
@instance_options
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(loaded: Loaded, origin: bool, as_json: bool) -> None:
    """Print every effective setting, secrets masked."""
    if as_json:
        click.echo(json.dumps(_config_json(loaded), indent=2, default=str))
        return
    click.echo(f"# configuration file: {format_toml(str(loaded.file)) if loaded.file else 'none'}")
    click.echo(f"# data directory: {format_toml(str(data_dir(loaded.settings)))}")
    section = ""
    for setting, value in _masked_values(loaded):
        table, _, key = setting.name.rpartition(".")
        if table != section:
            section = table
            click.echo(f"\n[{table}]")
        comment = f"  # {loaded.origins[setting.name]}" if origin else ""
        click.echo(f"{key} = {format_toml(value)}{comment}")


def format_toml(value: Any) -> str:
    """One value in TOML; for the other types of settings JSON and TOML agree."""
    if isinstance(value, dict):
        pairs = cast("dict[str, Any]", value).items()
        return "{ " + ", ".join(f"{key} = {format_toml(item)}" for key, item in pairs) + " }"
    # Settings of a plugin may hold dates and times, which JSON lacks.
    return json.dumps(value, ensure_ascii=False, default=str)


def _config_json(loaded: Loaded) -> dict[str, Any]:
    return {
        setting.name: {"value": value, "origin": loaded.origins[setting.name]}
        for setting, value in _masked_values(loaded)
    }


def _masked_values(loaded: Loaded) -> Iterator[tuple[Setting, Any]]:
    """Each setting with its effective value, masked if secret."""
    for setting, value in iter_values(loaded.settings):
        yield setting, mask_secrets(setting, value)
