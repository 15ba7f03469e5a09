"""`monkey-coder doctor`: what this machine offers, and whether `serve` would work."""

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
    data_dir,
    database_path,
    instance_flags,
    load_instance,
    open_database,
    quiet_logging,
    run_async,
)
from appliance.config.loader import Loaded
from appliance.config.settings import Settings
from appliance.domain import rootfs, toolchain_cache
from appliance.domain.execution import BackendStatus
from appliance.domain.models import ModelFile
from appliance.errors import ApplianceError, ConfigError
from appliance.inference import provider_factory
from appliance.models.registry import ModelRegistry
from appliance.plugins import LoadedPlugins
from appliance.sandbox.python import runtime
from appliance.sandbox.runner import SandboxRunner
from appliance.server import available_open_files, check_free, wanted_open_files
from appliance.spi.registry import NoModels, PluginContext, PluginProblem

_MARKS = {Grade.OK: "ok  ", Grade.WARN: "warn", Grade.FAIL: "FAIL"}
_COLORS = {Grade.OK: "green", Grade.WARN: "yellow", Grade.FAIL: "red"}
_CANNOT_SERVE = 1
_CORRECT = "correct it; config.example.toml names every setting"


@click.command(
    epilog="\b\nExamples:\n  monkey-coder doctor\n"
    "  monkey-coder doctor --json --data-dir /srv/monkey-coder\n"
    "\b\nExit status: 0 serving would work, maybe with warnings; 1 it would not."
)
@instance_flags
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(config_file: Path | None, data_dir: Path | None, as_json: bool) -> None:
    """Check what this machine offers, and whether serving would work."""
    try:
        loaded = load_instance(config_file, data_dir)
    except ConfigError as error:
        findings = [Finding("configuration", Grade.FAIL, error.message, _CORRECT)]
    else:
        quiet_logging(loaded.settings.log)
        findings = list(_findings(loaded))
    able = all(finding.grade is not Grade.FAIL for finding in findings)
    if as_json:
        click.echo(json.dumps({"ok": able, "findings": to_builtins(findings)}, indent=2))
    else:
        _print_report(findings, able)
    sys.exit(0 if able else _CANNOT_SERVE)


def _findings(loaded: Loaded) -> Iterator[Finding]:
    settings = loaded.settings
    loaded_plugins = plugins.load(settings.plugins)
    origin = str(loaded.file) if loaded.file else "no file; defaults and the environment"
    yield from doctor_checks.configuration(settings, loaded_plugins, origin)
    for warning in loaded.warnings:
        yield Finding("configuration", Grade.WARN, warning.problem, warning.remedy)
    try:
        problems, sandbox = run_async(_try_plugins(settings, loaded_plugins))
    except ConfigError as error:
        yield Finding("configuration", Grade.FAIL, error.message, _CORRECT)
        return
    yield from doctor_checks.plugin_problems(loaded_plugins, problems)
    yield from doctor_checks.processor()
    connections = settings.server.connections
    wanted = wanted_open_files(connections)
    yield from doctor_checks.open_files(connections, available_open_files(wanted), wanted)
    directory = list(doctor_checks.data_directory(settings))
    yield from directory
    yield from doctor_checks.port(settings, check_free)
    yield from doctor_checks.sandbox(sandbox)
    if all(finding.grade is not Grade.FAIL for finding in directory):
        yield from _stored_findings(loaded)


def _stored_findings(loaded: Loaded) -> Iterator[Finding]:
    """Database and models; never creates a data directory."""
    try:
        path = database_path(loaded.settings)
        damage, models = run_async(_inspect_database(loaded)) if path.exists() else ([], [])
    except ApplianceError as error:
        yield Finding("database", Grade.FAIL, error.message)
        return
    if path.exists():
        yield from doctor_checks.database(path, damage)
    else:
        yield Finding("database", Grade.OK, "will be created at the first start")
    yield from doctor_checks.models(loaded.settings, models)


async def _inspect_database(loaded: Loaded) -> tuple[list[str], list[ModelFile]]:
    async with open_database(loaded) as database:
        registry = ModelRegistry(database, data_dir(loaded.settings))
        return await database.integrity_check(), list(await registry.list())


async def _try_plugins(
    settings: Settings, loaded: LoadedPlugins
) -> tuple[list[PluginProblem], BackendStatus]:
    """Build every plugin in a temporary folder, and probe the sandbox there.

    Raises ConfigError.
    """
    with tempfile.TemporaryDirectory(prefix="monkey-coder-") as folder:
        context, registry = _plugin_context(settings, Path(folder)), loaded.registry
        providers, problems = provider_factory.build_providers(registry, context, settings)
        for name, provider in providers.items():
            try:
                await provider.close()
            except Exception as error:
                problems.append(PluginProblem.log(name, error))
        backends, failed = registry.build_sandboxes(dict.fromkeys(registry.sandboxes, context))
        runner = SandboxRunner(backends, settings.sandbox)
        try:
            await runner.start()
            await runner.wait_for_languages()
            return [*problems, *failed], runner.status
        finally:
            await runner.close()


def _plugin_context(settings: Settings, folder: Path) -> PluginContext:
    # Uses the sandbox's Python of an existing data directory, else builds one.
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
        sandbox_python=lambda: runtime.ensure_runtime(python_home),
        rootfs_dir=home / rootfs.DIRECTORY,
        toolchain_cache_dir=home / toolchain_cache.DIRECTORY,
    )


def _print_report(findings: list[Finding], can_serve: bool) -> None:
    for finding in findings:
        mark = click.style(_MARKS[finding.grade], fg=_COLORS[finding.grade])
        click.echo(f"{mark}  {finding.name:<15} {finding.detail}")
        if finding.remedy and finding.grade is not Grade.OK:
            click.echo(f"{'':21} → {finding.remedy}")
    click.echo(
        "\nServing would work." if can_serve else "\nServing would not work: see FAIL above."
    )
