"""`monkey-coder version`."""

import json
import platform
import sys

import click

from appliance import __version__
from appliance.processes import is_frozen


@click.command(epilog="Example: monkey-coder version --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with what it runs on.")
def command(as_json: bool) -> None:
    """Print the version."""
    if not as_json:
        click.echo(f"monkey-coder {__version__}")
        return
    facts = {
        "version": __version__,
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
        "executable": is_frozen(),
    }
    click.echo(json.dumps(facts))
