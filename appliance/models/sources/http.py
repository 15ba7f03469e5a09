"""How the command line reaches the network: certificates, proxies, what may be printed."""

import ssl
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx

from appliance.errors import InvalidInput, SetupError
from appliance.models.sources.pip_config import PipConfig


def open_client(config: PipConfig) -> httpx.AsyncClient:
    """A client that trusts and goes through what pip does; proxies also from the environment."""
    context = httpx.create_ssl_context()
    context.load_default_certs()
    if config.cert:
        _trust(context, Path(config.cert).expanduser())
    try:
        return httpx.AsyncClient(
            verify=context,
            proxy=config.proxy or None,
            follow_redirects=True,
            timeout=httpx.Timeout(60.0, connect=20.0),
        )
    except (ValueError, ImportError, httpx.InvalidURL):
        # Not the error's own words: a proxy's address may hold a password.
        raise SetupError(
            "the proxy of pip's configuration, HTTP_PROXY, HTTPS_PROXY or ALL_PROXY "
            "is none that can be used; write http://HOST:PORT"
        ) from None


def _trust(context: ssl.SSLContext, cert: Path) -> None:
    try:
        context.load_verify_locations(**{"capath" if cert.is_dir() else "cafile": str(cert)})
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or "no certificates in it"
        raise SetupError(f"certificate file {cert} (PIP_CERT): {reason}") from None


def without_secrets(url: str) -> str:
    """An address as it may be printed: no credentials, no query."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is none"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def check_address(url: str) -> None:
    """Raise InvalidInput unless this is a whole http or https address."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidInput(f"{without_secrets(url)!r} is not an address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise InvalidInput(
            f"{without_secrets(url)!r}: only http:// and https:// addresses can be fetched"
        )


def check_redirects(answer: httpx.Response) -> None:
    """Raise InvalidInput if the way to an answer led from https down to plain http."""
    schemes = [hop.url.scheme for hop in (*answer.history, answer)]
    if "https" in schemes and "http" in schemes[schemes.index("https") :]:
        raise InvalidInput("it redirects from https to plain http")


def network_reason(error: Exception) -> str:
    """What a network error says, or its kind where it says nothing."""
    return str(error) or type(error).__name__
