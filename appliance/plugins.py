"""Finds and registers plugins; the only importer of the `plugins` package.

A plugin is a module with `register(registry)`: a built-in one under plugins.providers,
plugins.sandboxes or plugins.forges, or the administrator's in `[plugins] path`, which is
appended to `plugins.__path__`. Its name is the last part of the module's name.
"""

import importlib
import importlib.util
import os
import pkgutil
import stat
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

import plugins
from appliance import processes
from appliance.config.home import expand_home
from appliance.config.settings import PluginSettings
from appliance.errors import PluginError
from appliance.spi.registry import PluginProblem, Registry

FAMILIES = ("providers", "sandboxes", "forges")
RESERVED = (*FAMILIES, "_shared")
"""Packages of the product below `plugins`; a plugin so named would never be imported."""
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


class LoadedPlugins(Struct, frozen=True):
    registry: Registry
    problems: tuple[PluginProblem, ...] = ()


def load(settings: PluginSettings) -> LoadedPlugins:
    """Register every plugin that is not disabled; a broken one is reported, never fatal."""
    registry, problems = Registry(), list[PluginProblem]()
    modules = list(_built_in_modules())
    if settings.path:
        try:
            modules += _add_directory(expand_home(settings.path))
        except PluginError as error:
            problems.append(PluginProblem(settings.path, error.message))
    for module in modules:
        name = module.rpartition(".")[2]
        if name in settings.disabled:
            continue
        try:
            _register(module, registry)
        # A plugin is third-party code and may raise anything.
        except (Exception, SystemExit) as error:
            problems.append(PluginProblem.log(name, error))
    return LoadedPlugins(registry, tuple(problems))


def child_argv(module: str) -> list[str]:
    """The command that runs `main(argv)` of a plugin's module in a process of its own."""
    directory = _added_directory()
    built_in = module.split(".")[1:2] and module.split(".")[1] in RESERVED
    suffix = "" if built_in or directory is None else f"@{directory}"
    return processes.child_argv(module + suffix)


def run_child(module: str, argv: list[str]) -> int:
    """Run `main(argv)` of a module under `plugins`, as `child_argv` named it."""
    module, _, directory = module.partition("@")
    if directory:
        _add_directory(Path(directory))
    return processes.run_child_main(module, argv)


def check_directory(path: Path) -> None:
    """Refuse a plugin directory that anyone but root or this user could change.

    Raises PluginError with the first offending path and the command that fixes it.
    """
    if not path.is_dir():
        raise PluginError(f"[plugins] path: {path} is not a directory")
    for parent in path.resolve().parents:
        # In a sticky directory (/tmp) other users cannot rename our entries.
        if not parent.stat().st_mode & stat.S_ISVTX:
            _check_owner_and_mode(parent)
    _check_owner_and_mode(path)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            _check_owner_and_mode(Path(folder, name))


def _check_owner_and_mode(path: Path) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise PluginError(f"[plugins] path: cannot inspect {path}: {error.strerror}") from None
    if status.st_uid not in (0, os.geteuid()):
        raise PluginError(
            f"[plugins] path: {path} belongs to user id {status.st_uid}; "
            f"plugins must belong to root or to the service's own user"
        )
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise PluginError(
            f"[plugins] path: {path} is writable by others; run: chmod -R go-w {path}"
        )


def _built_in_modules() -> Iterator[str]:
    for family in FAMILIES:
        if importlib.util.find_spec(f"plugins.{family}") is None:
            continue
        package = importlib.import_module(f"plugins.{family}")
        for module in pkgutil.iter_modules(package.__path__):
            yield f"plugins.{family}.{module.name}"


def _add_directory(path: Path) -> list[str]:
    """Make the administrator's plugins importable; returns the names of the modules."""
    check_directory(path)
    directory = str(path.resolve())
    if directory not in plugins.__path__:
        plugins.__path__.append(directory)
    importlib.invalidate_caches()
    return [f"plugins.{module.name}" for module in pkgutil.iter_modules([directory])]


def _register(module: str, registry: Registry) -> None:
    """Import one plugin and register what it offers, all of it or nothing."""
    if module.removeprefix("plugins.") in RESERVED:
        raise PluginError(f"the name is reserved for the built-in {module}; rename the plugin")
    register = getattr(importlib.import_module(module), "register", None)
    if not callable(register):
        raise PluginError("the module has no register(registry)")
    own = Registry()
    register(own)
    duplicates = [*(own.providers.keys() & registry.providers)]
    duplicates += own.sandboxes.keys() & registry.sandboxes
    if duplicates:
        raise PluginError(f"another plugin already offers {duplicates[0]!r}; remove one of them")
    registry.providers |= own.providers
    registry.sandboxes |= own.sandboxes


def _added_directory() -> str | None:
    """The administrator's plugin directory, once it was added."""
    added = list(plugins.__path__)[1:]
    return added[-1] if added else None
