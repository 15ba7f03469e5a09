"""`monkey-coder doctor`: what this machine offers, and whether serving would work."""

import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
from msgspec import to_builtins

from appliance import plugins, processes
from appliance.cli.support import doctor_checks
from appliance.cli.support.doctor_checks import Finding, Grade
from appliance.cli.support.instance import (
    box_flags,
    data_dir,
    database_path,
    load_box,
    open_box,
    quiet_logging,
    run_async,
)
from appliance.config.loader import Loaded
from appliance.config.settings import Settings
from appliance.domain import rootfs, toolchain_cache
from appliance.domain.execution import BackendStatus
from appliance.domain.models import ModelFile
from appliance.errors import ApplianceError, ConfigError
from appliance.models.registry import ModelRegistry
from appliance.plugins import LoadedPlugins
from appliance.sandbox.python import runtime
from appliance.sandbox.runner import SandboxRunner
from appliance.server import check_free
from appliance.spi.registry import NoModels, PluginContext

_MARKS = {Grade.OK: "ok  ", Grade.WARN: "warn", Grade.FAIL: "FAIL"}
_COLORS = {Grade.OK: "green", Grade.WARN: "yellow", Grade.FAIL: "red"}
_CANNOT_SERVE = 1


@click.command(
    epilog="\b\nExamples:\n  monkey-coder doctor\n"
    "  monkey-coder doctor --json --data-dir /srv/box\n"
    "\b\nExit status: 0 serving would work, maybe with warnings; 1 it would not."
)
@box_flags
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(config_file: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Check what this machine offers, and whether serving would work."""
    try:
        loaded = load_box(config_file, data_dir)
    except ConfigError as error:
        remedy = "correct it; config.example.toml names every setting"
        findings = [Finding("configuration", Grade.FAIL, error.message, remedy)]
    else:
        quiet_logging(loaded.settings.log)
        findings = list(_findings(loaded))
    able = all(finding.grade is not Grade.FAIL for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": able, "findings": to_builtins(findings)}, indent=2))
    else:
        _print(findings, able)
    sys.exit(0 if able else _CANNOT_SERVE)


def _findings(loaded: Loaded) -> Iterator[Finding]:
    settings = loaded.settings
    found = plugins.load(settings.plugins)
    origin = str(loaded.file) if loaded.file else "no file; defaults and the environment"
    yield from doctor_checks.configuration(settings, found, origin)
    yield from doctor_checks.plugin_problems(found)
    yield from doctor_checks.processor()
    yield from doctor_checks.open_files()
    directory = list(doctor_checks.data_directory(settings))
    yield from directory
    yield from doctor_checks.port(settings, check_free)
    yield from doctor_checks.sandbox(run_async(_probe_sandbox(settings, found)))
    if all(finding.grade is not Grade.FAIL for finding in directory):
        yield from _stored(loaded)


def _stored(loaded: Loaded) -> Iterator[Finding]:
    """Database and models; a box that does not exist yet is not made by looking at it."""
    try:
        path = database_path(loaded.settings)
        damage, models = run_async(_inspect(loaded)) if path.exists() else ([], [])
    except ApplianceError as error:
        yield Finding("database", Grade.FAIL, error.message)
        return
    if path.exists():
        yield from doctor_checks.database(path, damage)
    else:
        yield Finding("database", Grade.OK, "will be made at the first start")
    yield from doctor_checks.models(loaded.settings, models)


async def _inspect(loaded: Loaded) -> tuple[list[str], list[ModelFile]]:
    async with open_box(loaded) as database:
        registry = ModelRegistry(database, data_dir(loaded.settings))
        return await database.integrity_check(), list(await registry.list())


async def _probe_sandbox(settings: Settings, found: LoadedPlugins) -> BackendStatus:
    """What the sandbox would be, tried for real in a folder that is removed again."""
    with tempfile.TemporaryDirectory(prefix="monkey-coder-") as folder:
        context = _context(settings, Path(folder))
        backends = {name: make(context) for name, make in found.registry.sandboxes.items()}
        runner = SandboxRunner(backends, settings.sandbox)
        try:
            await runner.start()
            await runner.wait_for_languages()
            return runner.status
        finally:
            await runner.close()


def _context(settings: Settings, folder: Path) -> PluginContext:
    # The sandbox's Python of an existing box is used; for a new one it is made in passing.
    home = data_dir(settings)
    python_home = home if os.access(home, os.W_OK) else folder
    return PluginContext(
        data_dir=folder,
        runtime_dir=folder,
        settings=to_builtins(settings.sandbox),
        models=NoModels(),
        child_argv=plugins.child_argv,
        host_env=processes.host_env,
        child_env=processes.child_env,
        sandbox_python=lambda: runtime.prepare(python_home),
        sandbox_roots=home / rootfs.FOLDER,
        sandbox_prepared=home / toolchain_cache.FOLDER,
    )


def _print(findings: list[Finding], able: bool) -> None:
    for finding in findings:
        mark = click.style(_MARKS[finding.grade], fg=_COLORS[finding.grade])
        click.echo(f"{mark}  {finding.name:<15} {finding.detail}")
        if finding.remedy and finding.grade is not Grade.OK:
            click.echo(f"{'':21} → {finding.remedy}")
    click.echo("\nServing would work." if able else "\nServing would not work: see FAIL above.")
