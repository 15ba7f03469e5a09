"""Tells the administrator once that failed logins seem to come through an unlisted proxy."""

import structlog

from appliance.domain.addresses import parse_address

_ACCOUNTS = 5
_MAX_ADDRESSES = 256

log = structlog.get_logger()


class ProxyHint:
    """A reverse proxy that is not in server.trusted_proxies looks like one client on this
    machine or in its private network, with the failures of many accounts.
    """

    def __init__(self) -> None:
        self._accounts: dict[str, set[str]] = {}
        self._done = False

    def record_failure(self, account: str, address: str) -> None:
        if self._done or not _may_be_proxy(address):
            return
        if address not in self._accounts and len(self._accounts) >= _MAX_ADDRESSES:
            return
        accounts = self._accounts.setdefault(address, set())
        accounts.add(account)
        if len(accounts) >= _ACCOUNTS:
            self._done = True
            self._accounts.clear()
            log.warning(
                "many accounts fail to log in from one address: if it is a reverse proxy, add it "
                "to server.trusted_proxies, so that the limits apply to its clients",
                address=address,
            )


def _may_be_proxy(address: str) -> bool:
    parsed = parse_address(address)
    return parsed is not None and (parsed.is_loopback or parsed.is_private)
