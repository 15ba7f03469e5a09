"""Opens the HTTP session, one connection pool per provider."""

import asyncio
import ssl
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.errors import ConfigError
from plugins._shared.http_provider.options import HttpProviderOptions

if TYPE_CHECKING:
    import aiohttp

_MAX_CONNECTIONS = 256
_KEEPALIVE_S = 60.0


async def open_session(options: HttpProviderOptions, base_url: str) -> "aiohttp.ClientSession":
    """A session that verifies certificates, keeps no cookies and ignores the environment.

    Raises ConfigError if the CA file can't be loaded.
    """
    # Importing aiohttp and loading certificates would block the event loop for too long.
    await asyncio.to_thread(import_module, "aiohttp")
    needs_tls = base_url.startswith("https:") or options.proxy.startswith("https:")
    context = await asyncio.to_thread(_create_ssl_context, options.ca_file) if needs_tls else True
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=_MAX_CONNECTIONS, keepalive_timeout=_KEEPALIVE_S, ssl=context
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=options.proxy or None,
        trust_env=False,
        headers={"User-Agent": "monkey-coder", "Accept-Encoding": "identity"},
    )


def _create_ssl_context(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    defaults = ssl.get_default_verify_paths()
    if not (defaults.cafile or defaults.capath):
        # A frozen executable looks for certificates where its build machine had them.
        context.load_verify_locations(cafile=import_module("certifi").where())
    if ca_file:
        _load_ca_file(context, Path(ca_file).expanduser())
    return context


def _load_ca_file(context: ssl.SSLContext, file: Path) -> None:
    try:
        context.load_verify_locations(cafile=file)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or "it holds no certificates"
        raise ConfigError(f"ca_file {file}: {reason}") from None
