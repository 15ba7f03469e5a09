"""What the configuration says of one far provider."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Struct

from appliance.errors import ConfigError


class Options(Struct, frozen=True):
    """Seconds, and where the provider is. `base_url` has no slash at its end."""

    api_key: str = ""
    base_url: str = ""
    models: tuple[str, ...] = ()
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 180.0
    timeout_s: float = 600.0
    ca_file: str = ""
    proxy: str = ""

    @property
    def configured(self) -> bool:
        """Whether the administrator wants this provider: nothing is contacted otherwise."""
        return bool(self.api_key or self.base_url)


def read_options(name: str, settings: Mapping[str, Any]) -> Options:
    """Raises ConfigError for values of the wrong type and addresses that can't be used."""
    try:
        options = msgspec.convert(dict(settings), Options)
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings of provider {name!r}: {error}") from None
    _check(name, "base_url", options.base_url)
    _check(name, "proxy", options.proxy, may_hold_password=True)
    return options


def missing(name: str, plugin: str) -> str:
    """What to set so that a provider called `name`, of this plugin, can be used."""
    if name == plugin:
        return f"no key: set providers.{name}.api_key or {name.upper()}_API_KEY"
    return f"no address and no key: set base_url in [providers.upstreams.{name}]"


def address(given: str, own: str, path: str, *, always: bool = False) -> str:
    """Where the API begins: the address given, or the provider's own.

    An address without a path gets the usual one; with `always`, any that does not end in it.
    """
    base = (given or own).rstrip("/")
    wanted = not base.endswith(path) if always else not urlsplit(base).path
    return base + path if wanted else base


def _check(name: str, key: str, url: str, *, may_hold_password: bool = False) -> None:
    if not url:
        return
    parts = _split(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{key} of provider {name!r}: write http://HOST:PORT or https://HOST")
    if parts.query or parts.fragment:
        raise ConfigError(f"{key} of provider {name!r}: it can't hold a query or a fragment")
    if "@" in parts.netloc and not may_hold_password:
        raise ConfigError(
            f"{key} of provider {name!r}: it can't hold a user or a password; "
            "the key belongs into api_key"
        )


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for one that is no number
    except ValueError:
        return None
    return parts
