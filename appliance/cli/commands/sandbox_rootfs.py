"""`monkey-coder sandbox rootfs`: root file systems that runs see instead of the host's."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import structs

from appliance.cli.support.instance import instance_options, prepare_data_dir
from appliance.cli.support.progress import ProgressLine, format_size
from appliance.config.loader import Loaded
from appliance.domain.rootfs import RootfsRecord
from appliance.errors import Conflict

if TYPE_CHECKING:
    from appliance.sandbox.rootfs.store import RootfsStore

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def command() -> None:
    """Root file systems for sandboxes: languages that this machine does not have."""


@command.command(
    epilog="\b\nExamples:\n"
    "  podman export $(podman create node:22) -o node.tar\n"
    "  monkey-coder sandbox rootfs add node.tar\n"
    "  monkey-coder sandbox rootfs add tools.squashfs --name tools --sha256 3f9c…\n"
    "\b\nRuns see it once [sandbox] rootfs names it and the server was restarted."
)
@click.argument("source", metavar="FILE", type=click.Path(exists=True, path_type=Path))
@instance_options
@click.option("--name", help="Its name; by default derived from the file name.")
@click.option("--sha256", default="", metavar="HEX", help="Refuse the file unless this is it.")
@_json_option
def add(loaded: Loaded, source: Path, name: str | None, sha256: str, as_json: bool) -> None:
    """Add a root file system: a squashfs image, a tar archive or a folder.

    It is checked and unpacked into the data directory. Nothing of it is run, and nothing but
    plain files, folders and links is taken over.
    """
    progress = ProgressLine()
    try:
        record = _open_store(loaded).add(source, name, sha256, progress)
    finally:
        progress.end()
    _print_root(record, as_json=as_json)
    if not as_json and loaded.settings.sandbox.rootfs != record.name:
        click.echo(
            f'\nTo use it: rootfs = "{record.name}" below [sandbox], then restart the server.'
        )


@command.command("list", epilog="Example: monkey-coder sandbox rootfs list --json")
@instance_options
@_json_option
def list_roots(loaded: Loaded, as_json: bool) -> None:
    """List the root file systems; * marks the one that runs see."""
    records = _open_store(loaded).list()
    if as_json:
        click.echo(json.dumps([structs.asdict(record) for record in records], indent=2))
        return
    if not records:
        click.echo("No root file systems: runs see this machine's own, read-only.")
    for record in records:
        mark = "*" if record.name == loaded.settings.sandbox.rootfs else " "
        click.echo(f"{mark} {record.name:<24} {record.kind:<10} {format_size(record.size):>8}")


@command.command(epilog="Example: monkey-coder sandbox rootfs remove tools")
@click.argument("name")
@instance_options
def remove(name: str, loaded: Loaded) -> None:
    """Delete a root file system."""
    if loaded.settings.sandbox.rootfs == name:
        raise Conflict(
            f"runs see {name}: the setting sandbox.rootfs names it; change that first, and start "
            "the server"
        )
    _open_store(loaded).remove(name)
    click.echo(f"Removed {name}.")


@command.command(epilog="Example: monkey-coder sandbox rootfs check tools")
@click.argument("name")
@instance_options
@_json_option
def check(name: str, loaded: Loaded, as_json: bool) -> None:
    """Compare every file of a root file system with what was added."""
    progress = ProgressLine()
    try:
        record = _open_store(loaded).check(name, progress)
    finally:
        progress.end()
    _print_root(record, as_json=as_json)
    if not as_json:
        click.echo("\nEvery file is as it was added.")


def _open_store(loaded: Loaded) -> "RootfsStore":
    # Imported late: most commands unpack nothing and should start fast.
    from appliance.sandbox.rootfs.formats.entries import MIB, ArchiveLimits
    from appliance.sandbox.rootfs.store import RootfsStore

    settings = loaded.settings.sandbox
    bounds = ArchiveLimits(settings.rootfs_mib * MIB, settings.rootfs_files)
    return RootfsStore(prepare_data_dir(loaded.settings), bounds)


def _print_root(record: RootfsRecord, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(structs.asdict(record), indent=2))
        return
    added = datetime.fromtimestamp(record.added_at, UTC)
    facts = {
        "name": record.name,
        "kind": record.kind,
        "source": record.source,
        "sha256": record.source_sha256 or "none: it was a folder",
        "tree sha256": record.sha256,
        "holds": f"{record.files} files and folders, {format_size(record.size)}",
        "left out": f"{record.left_out} device nodes, pipes and sockets",
        "machine": record.machine,
        "shell": record.shell,
        "python": record.python or "none",
        "C library": f"glibc {record.glibc}" if record.glibc else "not glibc",
        "added": f"{added:%Y-%m-%d %H:%M} UTC",
    }
    for key, value in facts.items():
        click.echo(f"{key:<12} {value}")
