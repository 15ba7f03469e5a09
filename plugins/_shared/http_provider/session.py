"""One pool of connections per provider, opened at its first use."""

import asyncio
import ssl
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.errors import ConfigError
from plugins._shared.http_provider.options import Options

if TYPE_CHECKING:
    import aiohttp

_CONNECTIONS = 256
_IDLE_S = 60.0


async def open_session(options: Options, base_url: str) -> "aiohttp.ClientSession":
    """A session that verifies certificates, keeps no cookies and reads no environment.

    Raises ConfigError if the CA file can't be used.
    """
    # The import and the certificates take long enough to be felt by every other request.
    await asyncio.to_thread(import_module, "aiohttp")
    needs_trust = base_url.startswith("https:") or options.proxy.startswith("https:")
    context = await asyncio.to_thread(_trusting, options.ca_file) if needs_trust else True
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=_CONNECTIONS, keepalive_timeout=_IDLE_S, ssl=context),
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=options.proxy or None,
        trust_env=False,
        headers={"User-Agent": "monkey-coder", "Accept-Encoding": "identity"},
    )


def _trusting(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    places = ssl.get_default_verify_paths()
    if not (places.cafile or places.capath):
        # An executable built elsewhere looks for certificates where that machine had them.
        context.load_verify_locations(cafile=import_module("certifi").where())
    if ca_file:
        _trust(context, Path(ca_file).expanduser())
    return context


def _trust(context: ssl.SSLContext, file: Path) -> None:
    try:
        context.load_verify_locations(cafile=file)
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or "no certificates in it"
        raise ConfigError(f"ca_file {file}: {reason}") from None
