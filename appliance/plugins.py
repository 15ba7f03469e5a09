"""Finds and registers plugins; the only importer of the `plugins` package.

A plugin is a module with `register(registry)`: a built-in under plugins.providers,
plugins.sandboxes or plugins.forges, or a module in the box's own `[plugins] path`,
which is appended to `plugins.__path__`. Its name is the module's last word.
"""

import importlib
import importlib.util
import os
import pkgutil
import stat
from collections.abc import Iterator
from pathlib import Path

import structlog
from msgspec import Struct

import plugins
from appliance import processes
from appliance.config.settings import PluginSettings
from appliance.errors import PluginError
from appliance.spi.registry import Registry

FAMILIES = ("providers", "sandboxes", "forges")
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_log = structlog.get_logger()


class PluginProblem(Struct, frozen=True):
    """A plugin that is not there, and why."""

    name: str
    reason: str


class LoadedPlugins(Struct, frozen=True):
    registry: Registry
    problems: tuple[PluginProblem, ...] = ()


def load(settings: PluginSettings) -> LoadedPlugins:
    """Register every plugin that is not disabled. A broken one is reported, never fatal."""
    registry, problems = Registry(), list[PluginProblem]()
    modules = list(_built_in_modules())
    if settings.path:
        try:
            modules += _modules_of_box(Path(settings.path).expanduser())
        except PluginError as error:
            problems.append(PluginProblem(settings.path, error.message))
    for module in modules:
        name = module.rpartition(".")[2]
        if name in settings.disabled:
            continue
        try:
            _register(module, registry)
        # A plugin is foreign code: whatever it raises is its own problem.
        except (Exception, SystemExit) as error:
            foreign = None if isinstance(error, PluginError) else error
            _log.warning("plugin_broken", plugin=name, reason=_reason(error), exc_info=foreign)
            problems.append(PluginProblem(name, _reason(error)))
    return LoadedPlugins(registry, tuple(problems))


def child_argv(module: str) -> list[str]:
    """The command that runs `main(argv)` of a plugin's module in a process of its own."""
    box_dir = _box_dir()
    built_in = module.split(".")[1:2] and module.split(".")[1] in FAMILIES
    where = "" if built_in or box_dir is None else f"@{box_dir}"
    return processes.child_argv(module + where)


def run_child(module: str, argv: list[str]) -> int:
    """Run `main(argv)` of a module under `plugins`; the other end of child_argv."""
    module, _, box_dir = module.partition("@")
    if box_dir:
        _modules_of_box(Path(box_dir))
    return processes.run_main(module, argv)


def check_directory(path: Path) -> None:
    """Refuse a plugin directory that anyone but root or this user could change.

    Raises PluginError with the first offending path and the command that mends it.
    """
    if not path.is_dir():
        raise PluginError(f"[plugins] path: {path} is not a directory")
    for parent in path.resolve().parents:
        # In a sticky directory (/tmp) others can't rename what is ours.
        if not parent.stat().st_mode & stat.S_ISVTX:
            _check_owner_and_mode(parent)
    _check_owner_and_mode(path)
    for folder, folders, files in os.walk(path):
        for name in (*folders, *files):
            _check_owner_and_mode(Path(folder, name))


def _check_owner_and_mode(path: Path) -> None:
    try:
        found = path.stat()
    except OSError as error:
        raise PluginError(f"[plugins] path: cannot inspect {path}: {error.strerror}") from None
    if found.st_uid not in (0, os.geteuid()):
        raise PluginError(
            f"[plugins] path: {path} belongs to user id {found.st_uid}; "
            f"plugins must belong to root or to the service's own user"
        )
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise PluginError(
            f"[plugins] path: {path} is writable by others; run: chmod -R go-w {path}"
        )


def _built_in_modules() -> Iterator[str]:
    for family in FAMILIES:
        if importlib.util.find_spec(f"plugins.{family}") is None:
            continue
        package = importlib.import_module(f"plugins.{family}")
        for found in pkgutil.iter_modules(package.__path__):
            yield f"plugins.{family}.{found.name}"


def _modules_of_box(path: Path) -> list[str]:
    """The modules in the box's own directory, which from here on can be imported."""
    check_directory(path)
    place = str(path.resolve())
    if place not in plugins.__path__:
        plugins.__path__.append(place)
    importlib.invalidate_caches()
    return [f"plugins.{found.name}" for found in pkgutil.iter_modules([place])]


def _register(module: str, registry: Registry) -> None:
    """Import one plugin and take over what it offers, all of it or nothing."""
    if module.removeprefix("plugins.") in FAMILIES:
        raise PluginError(f"the name is taken by the built-in plugins.{module[8:]}; rename it")
    register = getattr(importlib.import_module(module), "register", None)
    if not callable(register):
        raise PluginError("it has no register(registry)")
    offered = Registry()
    register(offered)
    taken = [*(offered.providers.keys() & registry.providers)]
    taken += offered.sandboxes.keys() & registry.sandboxes
    if taken:
        raise PluginError(f"another plugin already offers {taken[0]!r}; remove one of them")
    registry.providers |= offered.providers
    registry.sandboxes |= offered.sandboxes


def _reason(error: BaseException) -> str:
    if isinstance(error, PluginError):
        return error.message
    return f"{type(error).__name__}: {error}"


def _box_dir() -> str | None:
    """The box's own directory, once it was loaded from."""
    added = list(plugins.__path__)[1:]
    return added[-1] if added else None
