"""How the command line reaches the network: certificates, proxies, what may be printed."""

import ssl
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx

from appliance.errors import SetupError
from appliance.services.pip_config import PipConfig


def open_client(config: PipConfig) -> httpx.AsyncClient:
    """A client that trusts and goes through what pip does; proxies also from the environment."""
    context = httpx.create_ssl_context()
    context.load_default_certs()
    if config.cert:
        _trust(context, Path(config.cert).expanduser())
    return httpx.AsyncClient(
        verify=context,
        proxy=config.proxy or None,
        follow_redirects=True,
        timeout=httpx.Timeout(60.0, connect=20.0),
    )


def _trust(context: ssl.SSLContext, cert: Path) -> None:
    try:
        context.load_verify_locations(**{"capath" if cert.is_dir() else "cafile": str(cert)})
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or "no certificates in it"
        raise SetupError(f"certificate file {cert} (PIP_CERT): {reason}") from None


def without_secrets(url: str) -> str:
    """An address as it may be printed: no credentials, no query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def network_reason(error: httpx.HTTPError) -> str:
    """What a network error says, or its kind where it says nothing."""
    return str(error) or type(error).__name__
