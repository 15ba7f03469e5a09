"""Where settings come from: flag > environment > file > default, each value with its origin.

The file is the one that was named (`--config` or MONKEY_CODER_CONFIG), else
`config.toml` in the data directory, else /etc/monkey-coder/config.toml; one file only.
The environment says `MONKEY_CODER__SECTION__KEY`, or one of PLAIN_NAMES; with `__FILE`
appended, the variable names a file that holds the value. An entry of a table is named
there as the file names it, else in lower case.
"""

import difflib
import math
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

import msgspec
from msgspec import Struct, structs

from appliance.config.settings import (
    Setting,
    Settings,
    Table,
    known_settings,
    known_tables,
    parts,
    values,
)
from appliance.config.toml_positions import TomlPlaces
from appliance.errors import ConfigError

FILE_SUFFIX = "__FILE"
CONFIG_VARIABLE = "MONKEY_CODER_CONFIG"
SYSTEM_FILE = Path("/etc/monkey-coder/config.toml")
SYSTEM_DATA_DIR = Path("/var/lib/monkey-coder")
PLAIN_NAMES: dict[str, str] = {
    "PORT": "server.port",
    "HOST": "server.host",
    "CORS_ORIGINS": "server.cors_origins",
    "DATABASE_URL": "data.database_url",
    "JWT_SECRET_KEY": "auth.jwt_secret_key",
    "OPENAI_API_KEY": "providers.openai.api_key",
    "ANTHROPIC_API_KEY": "providers.anthropic.api_key",
    "GOOGLE_API_KEY": "providers.google.api_key",
}
_KNOWN = known_settings()
_TABLES = known_tables()
_SECTIONS = {
    name.rsplit(".", depth)[0]
    for name in (*_KNOWN, *_TABLES)
    for depth in range(1, name.count(".") + 1)
}
_VARIABLES = {setting.variable: name for name, setting in _KNOWN.items()}
_ENTRY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}")
_MAX_FILE_BYTES = 1024 * 1024
_WORDS_FOR_BOOL = {"yes": "true", "on": "true", "no": "false", "off": "false"}


class Loaded(Struct, frozen=True):
    """The settings, for each dotted name where its value comes from, and the file read."""

    settings: Settings
    origins: dict[str, str]
    file: Path | None = None


class _Given(Struct, frozen=True):
    value: Any
    origin: str


_Named = tuple[str, _Given]


def load(
    config_file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any]
) -> Loaded:
    """Collect the settings. `overrides` are the flags, by dotted name; None means not given.

    Raises ConfigError that names the place (file and line, or variable) of an unknown
    key, a wrong type or an unreadable file, and the nearest name that is known.
    """
    flags = _from_flags(overrides)
    given = _from_environment(environ, {}) | flags
    file = _find_file(config_file, environ, given)
    if file is not None:
        in_file = _from_file(file)
        given = in_file | _from_environment(environ, in_file) | flags
    tree: dict[str, Any] = {}
    for name, item in given.items():
        _put(tree, parts(name), item.value)
    settings = msgspec.convert(tree, Settings)
    names = [setting.name for setting, _ in values(settings)]
    origins = {name: given[name].origin if name in given else "default" for name in names}
    return Loaded(settings, origins, file)


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """Where a box keeps its data if nobody said otherwise."""
    shared = Path(environ.get("XDG_DATA_HOME", ""))
    if shared.is_absolute():
        return shared / "monkey-coder"
    if os.geteuid() == 0:
        return SYSTEM_DATA_DIR
    return Path(environ.get("HOME") or Path.home()) / ".local/share/monkey-coder"


def shown(setting: Setting, value: Any) -> Any:
    """A value as it may be printed: secrets, and passwords in addresses, are masked."""
    if setting.secret:
        return "********" if value else ""
    if isinstance(value, Struct):
        return msgspec.to_builtins(value)
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value).items()
        return {key: shown(Setting(key, Any, None), each) for key, each in entries}
    if isinstance(value, list):
        return [shown(setting, each) for each in cast("list[Any]", value)]
    if isinstance(value, str):
        return re.sub(r"(://[^/@\s:]*):[^/\s]*@", r"\1:********@", value)
    return value


def _find_file(
    config_file: Path | None, environ: Mapping[str, str], given: Mapping[str, _Given]
) -> Path | None:
    named = config_file or environ.get(CONFIG_VARIABLE)
    if named:
        return Path(named).expanduser()
    chosen = given["data.dir"].value if "data.dir" in given else ""
    data_dir = Path(chosen).expanduser() if chosen else default_data_dir(environ)
    places = (data_dir / "config.toml", SYSTEM_FILE)
    return next((place for place in places if os.path.lexists(place)), None)


def _from_flags(overrides: Mapping[str, Any]) -> dict[str, _Given]:
    chosen = {name: value for name, value in overrides.items() if value is not None}
    return {name: _accept(name, value, "command line") for name, value in chosen.items()}


def _from_environment(
    environ: Mapping[str, str], in_file: Mapping[str, _Given]
) -> dict[str, _Given]:
    # The plain names come first: our own, more specific ones override them.
    plain = {name: environ.get(name, "") for base in PLAIN_NAMES for name in _both(base)}
    own = {n: v for n, v in environ.items() if n.startswith("MONKEY_CODER") and "__" in n}
    found: dict[str, _Given] = {}
    for variable, text in ({n: v for n, v in plain.items() if v} | own).items():
        base = variable.removesuffix(FILE_SUFFIX)
        if base != variable and environ.get(base):
            raise ConfigError(f"{base} and {variable} are both set; unset one of them")
        name = PLAIN_NAMES.get(base) or _VARIABLES.get(base) or _of_entry(base, in_file)
        if name is None:
            raise ConfigError(f"{variable}: no such setting{_nearest(base, _VARIABLES)}")
        value = text if base == variable else _value_in_file(variable, text)
        found[name] = _accept(name, _typed(name, value), f"environment {variable}", strict=False)
    return found


def _of_entry(variable: str, in_file: Iterable[str]) -> str | None:
    """The setting of a table's entry that a variable names."""
    for table in _TABLES.values():
        start = Setting(f"{table.prefix}.", Any, None).variable + "__"
        named = variable.removeprefix(start).rpartition("__")[0].lower()
        if not variable.startswith(start) or not _ENTRY_NAME.fullmatch(named):
            continue
        there = [parts(name)[-2] for name in in_file if name.startswith(f"{table.prefix}.")]
        for entry in (*there, named):
            for setting in table.settings(entry).values():
                if setting.variable == variable:
                    return setting.name
    return None


def _both(variable: str) -> tuple[str, str]:
    return variable, variable + FILE_SUFFIX


def _value_in_file(variable: str, path: str) -> str:
    value = _read(Path(path).expanduser(), variable).strip("\r\n")
    if not value:
        raise ConfigError(f"{variable}: {path} is empty")
    return value


def _typed(name: str, text: str) -> Any:
    """The text of a variable, split or spelled as the type of the setting wants it."""
    kind = _type(name)
    if get_origin(kind) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, Struct)):
        return _from_json(text)
    if kind is bool:
        return _WORDS_FOR_BOOL.get(text.strip().lower(), text.strip())
    return text if kind is str else text.strip()


def _from_json(text: str) -> Any:
    """The value of a variable that holds several; as it is where it is no JSON, to be refused."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def _from_file(file: Path) -> dict[str, _Given]:
    text = _read(file, "configuration file")
    try:
        tree = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from None
    return dict(_flatten(tree, "", TomlPlaces(file, text).of))


def _flatten(tree: Mapping[str, Any], prefix: str, place: Callable[[str], str]) -> Iterator[_Named]:
    for key, value in tree.items():
        name = prefix + key
        if name in _SECTIONS:
            if not isinstance(value, dict):
                raise ConfigError(f"{place(name)}: {name} is a section; write it as [{name}]")
            yield from _flatten(cast("dict[str, Any]", value), name + ".", place)
        elif name in _TABLES:
            yield from _entries(_TABLES[name], value, place)
        elif name in _KNOWN:
            yield name, _accept(name, value, place(name))
        else:
            nearest = _nearest(name, [*_KNOWN, *_SECTIONS, *_TABLES])
            raise ConfigError(f"{place(name)}: no setting {name!r}{nearest}")


def _entries(table: Table, value: Any, place: Callable[[str], str]) -> Iterator[_Named]:
    """What the sections [prefix.NAME] say."""
    if not isinstance(value, dict):
        raise ConfigError(f"{place(table.prefix)}: write it as [{table.prefix}.NAME]")
    for name, entry in cast("dict[str, Any]", value).items():
        section = f"{table.prefix}.{name}"
        if not _ENTRY_NAME.fullmatch(name):
            raise ConfigError(
                f"{place(section)}: {name!r} can't be a name in [{table.prefix}]; "
                "take letters, digits and . _ : / -"
            )
        if not isinstance(entry, dict) or not entry:
            raise ConfigError(f"{place(section)}: [{section}] holds no setting")
        known = {setting.name: setting for setting in table.settings(name).values()}
        for key, item in cast("dict[str, Any]", entry).items():
            setting = table.settings(name).get(key)
            if setting is None:
                nearest = _nearest(f"{section}.{key}", known)
                raise ConfigError(
                    f"{place(f'{section}.{key}')}: no setting '{section}.{key}'{nearest}"
                )
            yield setting.name, _accept(setting.name, item, place(setting.name))


def _accept(name: str, value: Any, place: str, *, strict: bool = True) -> _Given:
    """A value in the type of its setting. The error never holds a secret's value."""
    kind = _type(name)
    if kind is None:
        raise ConfigError(f"{place}: no setting {name!r}{_nearest(name, _KNOWN)}")
    try:
        typed = msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{place}: {name}: {_reason(kind, error)}") from None
    numbers = structs.astuple(typed) if isinstance(typed, Struct) else (typed,)
    if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
        raise ConfigError(f"{place}: {name}: expected a finite number")
    if isinstance(typed, str) and "\0" in typed:
        raise ConfigError(f"{place}: {name}: holds a zero byte")
    return _Given(typed, place)


def _type(name: str) -> Any:
    """The type of a setting; None where there is no such setting."""
    if name in _KNOWN:
        return _KNOWN[name].type
    words = parts(name)
    table = _TABLES.get(".".join(words[:-2]))
    setting = table.settings(words[-2]).get(words[-1]) if table else None
    return setting.type if setting else None


def _reason(kind: Any, error: msgspec.ValidationError) -> str:
    if get_origin(kind) is Literal:
        return "expected one of " + ", ".join(repr(word) for word in get_args(kind))
    return str(error).replace("`", "")


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    last = name.rsplit(".", 1)[-1]
    close = difflib.get_close_matches(name, names, 1) or [
        candidate for candidate in names if candidate.rsplit(".", 1)[-1] == last
    ]
    return f"; did you mean {close[0]}?" if close else ""


def _read(path: Path, what: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise ConfigError(f"{what}: {path} is larger than {_MAX_FILE_BYTES} bytes")
        return content.decode()
    except OSError as error:
        raise ConfigError(f"{what}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{what}: {path} is not UTF-8 text") from None


def _put(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value
