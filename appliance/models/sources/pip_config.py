"""The package indexes that pip on this machine is configured to use.

Reads pip's configuration files and the variables of pip and uv, as documented at
https://pip.pypa.io/en/stable/topics/configuration/; pip itself is not needed. Variables
override files; pip's variables override uv's.
"""

import configparser
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from appliance.config.home import expand_home, find_home
from appliance.errors import ConfigError

PYPI = "https://pypi.org/simple"


class PipConfig(Struct, frozen=True):
    """`indexes` and `find_links` are URLs or local paths; "" for `cert` or `proxy` means none.

    URLs may contain credentials: print them with http.redact_url only.
    """

    indexes: tuple[str, ...] = (PYPI,)
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    cert: str = ""
    proxy: str = ""


def read_pip_config(environ: Mapping[str, str]) -> PipConfig:
    """The effective configuration. Raises ConfigError for a file that can't be parsed."""
    values = _read_files(environ) | _read_pip_variables(environ)
    uv_index = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL", "")
    uv_more = [*_read_uv_indexes(environ), *environ.get("UV_EXTRA_INDEX_URL", "").split()]
    uv_links = environ.get("UV_FIND_LINKS", "").replace(",", " ")
    main = values.get("index-url", "").strip() or _strip_index_name(uv_index) or PYPI
    more = values.get("extra-index-url", "").split() or uv_more
    offline = values.get("no-index", "").strip().lower() in ("1", "true", "yes", "on")
    return PipConfig(
        indexes=() if offline else tuple(dict.fromkeys((main, *more))),
        find_links=tuple((values.get("find-links") or uv_links).split()),
        trusted_hosts=tuple(values.get("trusted-host", "").split()),
        cert=values.get("cert", "").strip() or environ.get("REQUESTS_CA_BUNDLE", ""),
        proxy=values.get("proxy", "").strip(),
    )


def _read_files(environ: Mapping[str, str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for file in _list_files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            reason = type(error).__name__
            raise ConfigError(f"can't parse pip's configuration file {file} ({reason})") from None
        # The sections that `pip download` reads, in its order.
        for section in ("global", "install", "download"):
            if parser.has_section(section):
                values |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    return values


def _list_files(environ: Mapping[str, str]) -> Iterator[Path]:
    """pip's configuration files; later ones override earlier ones."""
    chosen = environ.get("PIP_CONFIG_FILE", "")
    if chosen == os.devnull:
        return
    home = find_home(environ)
    for folder in reversed((environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")):
        yield Path(folder) / "pip/pip.conf"
    yield Path("/etc/pip.conf")
    if home is not None:
        yield home / ".pip/pip.conf"
    if config_home := environ.get("XDG_CONFIG_HOME") or (home and home / ".config"):
        yield Path(config_home) / "pip/pip.conf"
    yield Path(environ.get("VIRTUAL_ENV") or sys.prefix) / "pip.conf"
    if chosen:
        yield expand_home(chosen)


def _read_pip_variables(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("PIP_") and value
    }


def _read_uv_indexes(environ: Mapping[str, str]) -> list[str]:
    return [_strip_index_name(index) for index in environ.get("UV_INDEX", "").split()]


def _strip_index_name(index: str) -> str:
    """The URL of an index written as `name=URL`, which uv allows."""
    name, equals, address = index.partition("=")
    return address if equals and "/" not in name else index
