"""HTTP for downloads: client with pip's certificates and proxy, URL checks, redaction."""

import ssl
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import httpx

from appliance.config.home import expand_home
from appliance.errors import InvalidInput, SetupError
from appliance.models.sources.pip_config import PipConfig


def open_client(config: PipConfig) -> httpx.AsyncClient:
    """A client with pip's certificates and proxy, or the proxy of the environment."""
    context = httpx.create_ssl_context()
    context.load_default_certs()
    if config.cert:
        _load_certificates(context, expand_home(config.cert))
    try:
        return httpx.AsyncClient(
            verify=context,
            proxy=config.proxy or None,
            follow_redirects=True,
            timeout=httpx.Timeout(60.0, connect=20.0),
        )
    except (ValueError, ImportError, httpx.InvalidURL):
        # Without the error's text: a proxy's URL may contain a password.
        raise SetupError(
            "invalid proxy in pip's configuration, HTTP_PROXY, HTTPS_PROXY or ALL_PROXY; "
            "the form is http://HOST:PORT"
        ) from None


def _load_certificates(context: ssl.SSLContext, cert: Path) -> None:
    try:
        context.load_verify_locations(**{"capath" if cert.is_dir() else "cafile": str(cert)})
    except (OSError, ssl.SSLError) as error:
        reason = getattr(error, "strerror", None) or "it contains no certificates"
        raise SetupError(f"certificate file {cert} (PIP_CERT): {reason}") from None


def redact_url(url: str) -> str:
    """The URL without credentials and query, for messages."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "malformed URL"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def validate_url(url: str) -> None:
    """Raises InvalidInput unless `url` is a complete http or https URL."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InvalidInput(f"{redact_url(url)!r} is not a valid URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise InvalidInput(f"{redact_url(url)!r}: only http:// and https:// URLs are supported")


def require_no_downgrade(response: httpx.Response) -> None:
    """Raises InvalidInput if the request was redirected from https to plain http."""
    schemes = [hop.url.scheme for hop in (*response.history, response)]
    if "https" in schemes and "http" in schemes[schemes.index("https") :]:
        raise InvalidInput(
            "it redirects from https to plain http; use a source that stays on https"
        )


def describe_network_error(error: Exception) -> str:
    """The text of a network error, or its type if it has none."""
    return str(error) or type(error).__name__
