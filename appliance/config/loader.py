"""Loads the settings: flag > environment > file > default, each value with its origin.

One file is read: the one given by `--config` or MONKEY_CODER_CONFIG, else `config.toml`
in the data directory, else /etc/monkey-coder/config.toml. An environment variable is
`MONKEY_CODER__SECTION__KEY` or one of PLAIN_NAMES; with `__FILE` appended, it names a
file that holds the value. The name of a table's entry is matched against the entries of
the file without regard to case; otherwise it is taken in lower case.
"""

import difflib
import math
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin

import msgspec
from msgspec import Struct, structs

from appliance.config.home import expand_home, find_home
from appliance.config.settings import (
    Setting,
    Settings,
    Table,
    iter_values,
    known_settings,
    known_tables,
    split_name,
)
from appliance.config.toml_positions import TomlPositions
from appliance.errors import ConfigError

FILE_NAME = "config.toml"
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
RENAMED = {"gateway.far_parallel": "gateway.remote_concurrency"}
"""Old names of settings; each works, with a warning, for one release."""
_KNOWN = known_settings()
_TABLES = known_tables()
_SECTIONS = {
    name.rsplit(".", depth)[0]
    for name in (*_KNOWN, *_TABLES)
    for depth in range(1, name.count(".") + 1)
}
_ACCEPTED = _KNOWN | {old: structs.replace(_KNOWN[new], name=old) for old, new in RENAMED.items()}
_VARIABLES = {setting.variable: name for name, setting in _ACCEPTED.items()}
_ENTRY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,99}")
_MAX_FILE_BYTES = 1024 * 1024
_BOOL_WORDS = {"yes": "true", "on": "true", "no": "false", "off": "false"}


class ConfigWarning(Struct, frozen=True):
    """Something that works but should be changed."""

    problem: str
    remedy: str


class Loaded(Struct, frozen=True):
    """The settings, the origin of each by dotted name, and the file that was read.

    `warnings` name old names of settings, and a file of secrets that others can read.
    """

    settings: Settings
    origins: dict[str, str]
    file: Path | None = None
    warnings: tuple[ConfigWarning, ...] = ()


class _SettingValue(Struct, frozen=True):
    value: Any
    origin: str


_NamedValue = tuple[str, _SettingValue]


def load(
    config_file: Path | None, environ: Mapping[str, str], overrides: Mapping[str, Any]
) -> Loaded:
    """Collect the settings. `overrides` are the flags by dotted name; None means not set.

    Raises ConfigError for an unknown key, a wrong type or an unreadable file. Its text
    holds the location (file and line, or variable) and the nearest known name.
    """
    flags = _read_flags(overrides)
    explicit = _read_environment(environ, {}) | flags
    file = _find_file(config_file, environ, explicit)
    warnings: list[ConfigWarning | None] = []
    if file is not None:
        from_file = _read_config_file(file)
        warnings.append(_check_file_mode(file, from_file))
        explicit = from_file | _read_environment(environ, from_file) | flags
    warnings += [_replace_old_name(explicit, *names) for names in RENAMED.items()]
    tree: dict[str, Any] = {}
    for name, item in explicit.items():
        _set_nested(tree, split_name(name), item.value)
    settings = msgspec.convert(tree, Settings)
    names = [setting.name for setting, _ in iter_values(settings)]
    origins = {name: explicit[name].origin if name in explicit else "default" for name in names}
    return Loaded(settings, origins, file, tuple(filter(None, warnings)))


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """The data directory where none is configured. Raises ConfigError without a home directory."""
    path = _find_default_data_dir(environ)
    if path is None:
        raise ConfigError(
            f"no data directory: user id {os.geteuid()} has no home directory and HOME is not "
            "set; name one with --data-dir or MONKEY_CODER__DATA__DIR"
        )
    return path


def _find_default_data_dir(environ: Mapping[str, str]) -> Path | None:
    data_home = Path(environ.get("XDG_DATA_HOME", ""))
    if data_home.is_absolute():
        return data_home / "monkey-coder"
    if os.geteuid() == 0:
        return SYSTEM_DATA_DIR
    home = find_home(environ)
    return home and home / ".local/share/monkey-coder"


def mask_secrets(setting: Setting, value: Any) -> Any:
    """The value for printing: secrets, and passwords in URLs, are replaced by asterisks."""
    if setting.secret:
        return "********" if value else ""
    if isinstance(value, Struct):
        return msgspec.to_builtins(value)
    if isinstance(value, dict):
        entries = cast("dict[str, Any]", value).items()
        return {key: mask_secrets(Setting(key, Any, None), each) for key, each in entries}
    if isinstance(value, list):
        return [mask_secrets(setting, each) for each in cast("list[Any]", value)]
    if isinstance(value, str):
        return re.sub(r"(://[^/@\s:]*):[^/\s]*@", r"\1:********@", value)
    return value


def _find_file(
    config_file: Path | None, environ: Mapping[str, str], explicit: Mapping[str, _SettingValue]
) -> Path | None:
    requested = config_file or environ.get(CONFIG_VARIABLE)
    if requested:
        return expand_home(requested)
    directory = explicit["data.dir"].value if "data.dir" in explicit else ""
    data_dir = expand_home(directory) if directory else _find_default_data_dir(environ)
    own = [data_dir / FILE_NAME] if data_dir else []
    return next((path for path in (*own, SYSTEM_FILE) if os.path.lexists(path)), None)


def _replace_old_name(
    explicit: dict[str, _SettingValue], old: str, new: str
) -> ConfigWarning | None:
    """Move a value from its old name to the new one; the warning, if there was one."""
    if old not in explicit:
        return None
    item = explicit.pop(old)
    if new in explicit:
        raise ConfigError(f"{item.origin}: {old} is the old name of {new}; remove {old}")
    explicit[new] = item
    return ConfigWarning(
        f"{item.origin}: {old} is now {new}", "rename it; the next release drops the old name"
    )


def _check_file_mode(file: Path, from_file: Mapping[str, _SettingValue]) -> ConfigWarning | None:
    """A warning if others can read or change a file that holds secrets."""
    mode = stat.S_IMODE(file.stat().st_mode)
    secret = (
        mask_secrets(Setting(name, Any, None), item.value) != msgspec.to_builtins(item.value)
        for name, item in from_file.items()
    )
    if mode & (stat.S_IROTH | stat.S_IWOTH) and any(secret):
        problem = f"{file} holds secrets, and every user of this machine can read it"
        return ConfigWarning(f"{problem} (mode {mode:04o})", f"run: chmod o-rwx {file}")
    return None


def _read_flags(overrides: Mapping[str, Any]) -> dict[str, _SettingValue]:
    flags = {name: value for name, value in overrides.items() if value is not None}
    return {name: _convert_value(name, value, "command line") for name, value in flags.items()}


def _read_environment(
    environ: Mapping[str, str], from_file: Mapping[str, _SettingValue]
) -> dict[str, _SettingValue]:
    # Plain names first, so that the product's own names override them.
    plain = {
        name: environ.get(name, "") for base in PLAIN_NAMES for name in _with_file_variant(base)
    }
    own = {n: v for n, v in environ.items() if n.startswith("MONKEY_CODER") and "__" in n}
    settings: dict[str, _SettingValue] = {}
    for variable, text in ({n: v for n, v in plain.items() if v} | own).items():
        base = variable.removesuffix(FILE_SUFFIX)
        if base != variable and environ.get(base):
            raise ConfigError(f"{base} and {variable} are both set; unset one of them")
        name = (
            PLAIN_NAMES.get(base) or _VARIABLES.get(base) or _table_entry_setting(base, from_file)
        )
        if name is None:
            raise ConfigError(f"{variable}: no such setting{_suggestion(base, _VARIABLES)}")
        value = text if base == variable else _read_value_file(variable, text)
        parsed = _parse_text(name, value)
        settings[name] = _convert_value(name, parsed, f"environment {variable}", strict=False)
    return settings


def _table_entry_setting(variable: str, file_names: Iterable[str]) -> str | None:
    """The dotted name of the table entry's setting that an environment variable means."""
    for table in _TABLES.values():
        start = Setting(f"{table.prefix}.", Any, None).variable + "__"
        lower = variable.removeprefix(start).rpartition("__")[0].lower()
        if not variable.startswith(start) or not _ENTRY_NAME.fullmatch(lower):
            continue
        prefix = f"{table.prefix}."
        file_entries = [split_name(name)[-2] for name in file_names if name.startswith(prefix)]
        for entry in (*file_entries, lower):
            for setting in table.settings(entry).values():
                if setting.variable == variable:
                    return setting.name
    return None


def _with_file_variant(variable: str) -> tuple[str, str]:
    return variable, variable + FILE_SUFFIX


def _read_value_file(variable: str, path: str) -> str:
    value = _read_text(expand_home(path), variable).strip("\r\n")
    if not value:
        raise ConfigError(f"{variable}: {path} is empty")
    return value


def _parse_text(name: str, text: str) -> Any:
    """A variable's text, split or spelled as the type of its setting requires."""
    kind = _setting_type(name)
    if get_origin(kind) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if get_origin(kind) is dict or (isinstance(kind, type) and issubclass(kind, Struct)):
        return _parse_json(text)
    if kind is bool:
        return _BOOL_WORDS.get(text.strip().lower(), text.strip())
    return text if kind is str else text.strip()


def _parse_json(text: str) -> Any:
    """A JSON value; text that is not JSON stays as it is and fails the conversion."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text


def _read_config_file(file: Path) -> dict[str, _SettingValue]:
    text = _read_text(file, "configuration file")
    try:
        tree = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from None
    return dict(_flatten(tree, "", TomlPositions(file, text).location_of))


def _flatten(
    tree: Mapping[str, Any], prefix: str, locate: Callable[[str], str]
) -> Iterator[_NamedValue]:
    for key, value in tree.items():
        name = prefix + key
        if name in _SECTIONS:
            if not isinstance(value, dict):
                raise ConfigError(f"{locate(name)}: {name} is a section; write it as [{name}]")
            yield from _flatten(cast("dict[str, Any]", value), name + ".", locate)
        elif name in _TABLES:
            yield from _read_table(_TABLES[name], value, locate)
        elif name in _ACCEPTED:
            yield name, _convert_value(name, value, locate(name))
        else:
            nearest = _suggestion(name, [*_KNOWN, *_SECTIONS, *_TABLES])
            raise ConfigError(f"{locate(name)}: no setting {name!r}{nearest}")


def _read_table(table: Table, value: Any, locate: Callable[[str], str]) -> Iterator[_NamedValue]:
    """The settings of the sections [prefix.NAME]."""
    if not isinstance(value, dict):
        raise ConfigError(f"{locate(table.prefix)}: write it as [{table.prefix}.NAME]")
    for name, entry in cast("dict[str, Any]", value).items():
        section = f"{table.prefix}.{name}"
        if not _ENTRY_NAME.fullmatch(name):
            raise ConfigError(
                f"{locate(section)}: {name!r} is not a valid name in [{table.prefix}]; "
                "use letters, digits and . _ : / -"
            )
        if not isinstance(entry, dict) or not entry:
            raise ConfigError(f"{locate(section)}: [{section}] is empty")
        known = {setting.name: setting for setting in table.settings(name).values()}
        for key, item in cast("dict[str, Any]", entry).items():
            setting = table.settings(name).get(key)
            if setting is None:
                nearest = _suggestion(f"{section}.{key}", known)
                raise ConfigError(
                    f"{locate(f'{section}.{key}')}: no setting '{section}.{key}'{nearest}"
                )
            yield setting.name, _convert_value(setting.name, item, locate(setting.name))


def _convert_value(name: str, value: Any, origin: str, *, strict: bool = True) -> _SettingValue:
    """Convert a value to the type of its setting. The error never holds a secret."""
    kind = _setting_type(name)
    if kind is None:
        raise ConfigError(f"{origin}: no setting {name!r}{_suggestion(name, _KNOWN)}")
    try:
        typed = msgspec.convert(value, kind, strict=strict)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{origin}: {name}: {_conversion_error(kind, error)}") from None
    numbers = structs.astuple(typed) if isinstance(typed, Struct) else (typed,)
    if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
        raise ConfigError(f"{origin}: {name}: expected a finite number")
    if isinstance(typed, str):
        _check_text(typed, f"{origin}: {name}")
    return _SettingValue(typed, origin)


def _check_text(text: str, place: str) -> None:
    if "\0" in text:
        raise ConfigError(f"{place}: contains a NUL byte")
    if not is_utf8(text):
        raise ConfigError(f"{place}: not valid UTF-8")


def is_utf8(text: str) -> bool:
    """False for text with bytes of the environment that are not UTF-8, as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in text)


def _setting_type(name: str) -> Any:
    """The type of a setting, or None if there is no such setting."""
    if name in _ACCEPTED:
        return _ACCEPTED[name].type
    words = split_name(name)
    table = _TABLES.get(".".join(words[:-2]))
    setting = table.settings(words[-2]).get(words[-1]) if table else None
    return setting.type if setting else None


def _conversion_error(kind: Any, error: msgspec.ValidationError) -> str:
    if get_origin(kind) is Literal:
        return "expected one of " + ", ".join(repr(word) for word in get_args(kind))
    return str(error).replace("`", "")


def _suggestion(name: str, known: Iterable[str]) -> str:
    names = list(known)
    last = name.rsplit(".", 1)[-1]
    close = difflib.get_close_matches(name, names, 1) or [
        candidate for candidate in names if candidate.rsplit(".", 1)[-1] == last
    ]
    return f"; did you mean {close[0]}?" if close else ""


def _read_text(path: Path, what: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise ConfigError(f"{what}: {path} is larger than {_MAX_FILE_BYTES} bytes")
        # Editors on Windows begin a file with a byte order mark.
        return content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{what}: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{what}: {path} is not UTF-8 text") from None


def _set_nested(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
    tree[path[-1]] = value
