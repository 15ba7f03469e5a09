"""The instance that a command works on: settings, data directory, database."""

import asyncio
import functools
import gc
import os
import pwd
import signal
import stat
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from msgspec import structs

from appliance.config import loader
from appliance.config.home import expand_home
from appliance.config.loader import Loaded
from appliance.config.settings import LogSettings, Settings
from appliance.errors import ConfigError, SetupError

if TYPE_CHECKING:
    from appliance.store.sqlite.database import Database

T = TypeVar("T")

DATABASE_FILE = "monkey-coder.db"
_SQLITE = "sqlite:///"
_OWN_FILES = frozenset({DATABASE_FILE, loader.FILE_NAME})
_FORBIDDEN_MODE = stat.S_IWGRP | stat.S_IRWXO


def instance_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add --config and --data-dir to a command; it receives the settings as keyword `loaded`."""

    @functools.wraps(command)
    def wrapper(*args: Any, config_file: Path | None, data_dir: Path | None, **kwargs: Any) -> T:
        loaded = load_instance(config_file, data_dir)
        quiet_logging(loaded.settings.log)
        return command(*args, loaded=loaded, **kwargs)

    return instance_flags(wrapper)


def instance_flags(command: Callable[..., T]) -> Callable[..., T]:
    """Add --config and --data-dir to a command, passed on as `config_file` and `data_dir`."""
    file = click.Path(dir_okay=False, path_type=Path)
    folder = click.Path(file_okay=False, path_type=Path)
    for option in (
        click.option("--data-dir", type=folder, help="The data directory."),
        click.option("--config", "config_file", type=file, help="The configuration file to read."),
    ):
        command = option(command)
    return command


def load_instance(
    config_file: Path | None, data_dir: Path | None, flags: Mapping[str, Any] | None = None
) -> Loaded:
    """Load the settings and print warnings; `flags` override by dotted name (None: not set)."""
    overrides = {"data.dir": None if data_dir is None else str(data_dir), **(flags or {})}
    loaded = loader.load(config_file, os.environ, overrides)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning.problem}; {warning.remedy}", err=True)
    return loaded


def quiet_logging(settings: LogSettings) -> None:
    """Log warnings and errors only: a command prints its result itself."""
    # Imported late: `version` and `--help` do not need it.
    from appliance import telemetry

    level = "warning" if settings.level == "info" else settings.level
    telemetry.configure_logging(structs.replace(settings, level=level))


def data_dir(settings: Settings) -> Path:
    """The absolute path of the data directory; it need not exist. Raises ConfigError."""
    configured = settings.data.dir
    path = expand_home(configured) if configured else loader.default_data_dir(os.environ)
    path = path.absolute()
    if not loader.is_utf8(str(path)):
        raise ConfigError(f"data directory {path}: not valid UTF-8; choose another with --data-dir")
    return path


def prepare_data_dir(settings: Settings) -> Path:
    """The data directory, made 0700 if it is missing or accessible to others.

    Raises SetupError if it can't be made, or if others may have put something into it.
    """
    path = data_dir(settings)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        mode = check_data_dir(path)
        if mode & _FORBIDDEN_MODE:
            path.chmod(0o700)
            # Again: until now, others may have been able to put something in.
            _check_content(path, mode)
            click.echo(f"data directory {path}: mode {mode:04o} changed to 0700", err=True)
    except OSError as error:
        raise SetupError(
            f"data directory {path}: {error.strerror}; choose another with --data-dir"
        ) from None
    return path


def check_data_dir(path: Path) -> int:
    """The mode of the directory, which prepare_data_dir changes to 0700 if it is another.

    Raises SetupError, with the remedy, unless the directory and what it holds are ours.
    """
    status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise SetupError(f"data directory {path}: is a file; choose another with --data-dir")
    if status.st_uid != os.geteuid():
        owner = _user_name(status.st_uid)
        raise SetupError(
            f"data directory {path} belongs to {owner}; run this as that user: sudo -u {owner} …"
        )
    mode = stat.S_IMODE(status.st_mode)
    if mode & _FORBIDDEN_MODE:
        _check_content(path, mode)
    return mode


def _check_content(path: Path, mode: int) -> None:
    """Raises SetupError unless a directory of this mode may be closed to others.

    It may if it is empty, or if it is a data directory that others could not write. Any other
    folder may serve another purpose: closing /etc would break the machine.
    """
    names = {entry.name for entry in path.iterdir()}
    is_own = bool(names & _OWN_FILES) and not mode & (stat.S_IWGRP | stat.S_IWOTH)
    if mode & stat.S_ISVTX or not (is_own or not names):
        raise SetupError(
            f"data directory {path} is accessible to other users (mode {mode:04o}) and holds "
            f"other files; choose an empty folder with --data-dir, or run: chmod 700 {path}"
        )


def database_path(settings: Settings) -> Path:
    """The SQLite file: data.database_url (sqlite:///…), else one in the data directory."""
    url = settings.data.database_url
    if not url:
        return data_dir(settings) / DATABASE_FILE
    if url.startswith(("postgresql:", "postgresql+", "postgres:")):
        raise ConfigError(
            "data.database_url: PostgreSQL is not supported by this version; "
            "unset it (DATABASE_URL) to use the built-in SQLite database"
        )
    if not url.startswith(_SQLITE) or url == _SQLITE:
        raise ConfigError(
            "data.database_url: expected sqlite:///relative/path or sqlite:////absolute/path"
        )
    return expand_home(url.removeprefix(_SQLITE)).absolute()


@asynccontextmanager
async def open_database(
    loaded: Loaded, *, exclusive: bool = False
) -> "AsyncGenerator[Database, None]":
    """Open the database; creates the data directory if it is missing.

    Without `exclusive`, a running server may use it at the same time.
    """
    # Imported late: most commands need no database and should start fast.
    from appliance.store.sqlite.database import Database

    prepare_data_dir(loaded.settings)
    database = await Database.open(database_path(loaded.settings), exclusive=exclusive)
    try:
        yield database
    finally:
        await database.close()


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine to its end; Ctrl-C cancels it first, then ends the command."""
    gc.enable()
    try:
        return asyncio.run(_run_until_interrupted(work))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _run_until_interrupted(work: Coroutine[Any, Any, T]) -> T:
    """Cancel on SIGINT through the loop's handler.

    The interpreter's own handler only runs at the loop's next event if the signal arrives
    just before the loop blocks.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        return await task
    finally:
        loop.remove_signal_handler(signal.SIGINT)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user id {uid}"
