"""Where pip on this machine gets its packages from: its files, its and uv's variables.

As https://pip.pypa.io/en/stable/topics/configuration/ says, without needing pip: the
executable has none. The variables win over the files; pip's own over uv's.
"""

import configparser
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from appliance.errors import ConfigError

PYPI = "https://pypi.org/simple"


class PipConfig(Struct, frozen=True):
    """`indexes` and `find_links` are addresses or local paths; empty `cert` or `proxy`: none.

    They may hold credentials: never print them as they are.
    """

    indexes: tuple[str, ...] = (PYPI,)
    find_links: tuple[str, ...] = ()
    trusted_hosts: tuple[str, ...] = ()
    cert: str = ""
    proxy: str = ""


def read(environ: Mapping[str, str]) -> PipConfig:
    """The configuration in force. Raises ConfigError for a file that can't be parsed."""
    said = _from_files(environ) | _from_pip_variables(environ)
    uv_index = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL", "")
    uv_more = [*_uv_indexes(environ), *environ.get("UV_EXTRA_INDEX_URL", "").split()]
    uv_links = environ.get("UV_FIND_LINKS", "").replace(",", " ")
    main = said.get("index-url", "").strip() or _without_name(uv_index) or PYPI
    more = said.get("extra-index-url", "").split() or uv_more
    offline = said.get("no-index", "").strip().lower() in ("1", "true", "yes", "on")
    return PipConfig(
        indexes=() if offline else tuple(dict.fromkeys((main, *more))),
        find_links=tuple((said.get("find-links") or uv_links).split()),
        trusted_hosts=tuple(said.get("trusted-host", "").split()),
        cert=said.get("cert", "").strip() or environ.get("REQUESTS_CA_BUNDLE", ""),
        proxy=said.get("proxy", "").strip(),
    )


def _from_files(environ: Mapping[str, str]) -> dict[str, str]:
    said: dict[str, str] = {}
    for file in _files(environ):
        parser = configparser.RawConfigParser()
        try:
            parser.read(file, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            reason = type(error).__name__
            raise ConfigError(f"pip's configuration {file} can't be read ({reason})") from None
        # `pip download` reads [global], then [install] and [download]; so do we.
        for section in ("global", "install", "download"):
            if parser.has_section(section):
                said |= {key.replace("_", "-"): value for key, value in parser.items(section)}
    return said


def _files(environ: Mapping[str, str]) -> Iterator[Path]:
    """pip's files, the later ones win."""
    chosen = environ.get("PIP_CONFIG_FILE", "")
    if chosen == os.devnull:
        return
    home = Path(environ.get("HOME") or Path.home())
    for folder in reversed((environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":")):
        yield Path(folder) / "pip/pip.conf"
    yield Path("/etc/pip.conf")
    yield home / ".pip/pip.conf"
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip/pip.conf"
    yield Path(environ.get("VIRTUAL_ENV") or sys.prefix) / "pip.conf"
    if chosen:
        yield Path(chosen).expanduser()


def _from_pip_variables(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name.removeprefix("PIP_").lower().replace("_", "-"): value
        for name, value in environ.items()
        if name.startswith("PIP_") and value
    }


def _uv_indexes(environ: Mapping[str, str]) -> list[str]:
    return [_without_name(index) for index in environ.get("UV_INDEX", "").split()]


def _without_name(index: str) -> str:
    """uv allows `name=address`."""
    name, equals, address = index.partition("=")
    return address if equals and "/" not in name else index
