"""Settings of one remote provider."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Struct

from appliance.errors import ConfigError


class HttpProviderOptions(Struct, frozen=True):
    """`[providers.NAME]` of the configuration. Timeouts are in seconds."""

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
        """Whether the administrator has set up this provider; otherwise nothing is contacted."""
        return bool(self.api_key or self.base_url)


def read_options(name: str, settings: Mapping[str, Any]) -> HttpProviderOptions:
    """Decode the settings. Raises ConfigError for wrong types and invalid URLs."""
    try:
        options = msgspec.convert(dict(settings), HttpProviderOptions)
    except msgspec.ValidationError as error:
        raise ConfigError(f"settings of provider {name!r}: {error}") from None
    _check_url(name, "base_url", options.base_url)
    _check_url(name, "proxy", options.proxy, may_hold_password=True)
    return options


def missing_settings_hint(name: str, plugin: str) -> str:
    """Says which settings a provider called `name` of this plugin needs."""
    if name == plugin:
        return f"no API key: set providers.{name}.api_key or {name.upper()}_API_KEY"
    return f"no base_url and no API key: set base_url in [providers.upstreams.{name}]"


def build_base_url(configured: str, default: str, path: str, *, always: bool = False) -> str:
    """The URL that the API's paths are appended to: the configured one, or the default.

    `path` is appended to a URL without a path; with `always`, to any that does not end in it.
    """
    base = (configured or default).rstrip("/")
    append = not base.endswith(path) if always else not urlsplit(base).path
    return base + path if append else base


def _check_url(name: str, key: str, url: str, *, may_hold_password: bool = False) -> None:
    if not url:
        return
    parts = _split_url(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"{key} of provider {name!r}: must be http://HOST[:PORT] or https://HOST[:PORT]"
        )
    if parts.query or parts.fragment:
        raise ConfigError(f"{key} of provider {name!r}: must not have a query or a fragment")
    if "@" in parts.netloc and not may_hold_password:
        raise ConfigError(
            f"{key} of provider {name!r}: must not have a user or a password; "
            "set the key in api_key"
        )


def _split_url(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError if it is not a number
    except ValueError:
        return None
    return parts
