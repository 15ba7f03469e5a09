"""Which connections are over the limits of number."""

from collections.abc import Collection, Mapping

from appliance.server.connection import Connection, EndReason
from appliance.server.connection_limits import find_excess


def group(address: str, *idle_since: float) -> dict[str, list[Connection]]:
    """Connections of an address; one whose time is negative has a request in progress."""
    return {
        address: [
            Connection(number, b"", (address, str(number)), address, since)
            for number, since in enumerate(idle_since)
        ]
    }


def excess(
    groups: Mapping[str, Collection[Connection]], per_address: int = 100, total: int = 100
) -> list[tuple[str, float, EndReason]]:
    found = find_excess(
        groups,
        per_address=per_address,
        total=total,
        is_idle=lambda connection: connection.idle_since >= 0,
        is_exempt=lambda address: address == "proxy",
    )
    return [(each.address, each.idle_since, reason) for each, reason in found]


def test_address_when_it_is_over_its_limit_then_those_idle_longest_go() -> None:
    groups = group("a", 5.0, 3.0, 4.0) | group("b", 1.0, 2.0)
    assert excess(groups, per_address=2) == [("a", 3.0, EndReason.ADDRESS_LIMIT)]


def test_address_when_all_its_requests_are_in_progress_then_none_goes() -> None:
    assert excess(group("a", -1.0, -1.0, -1.0), per_address=2, total=2) == []


def test_address_when_it_is_a_trusted_proxy_then_it_has_no_limit() -> None:
    assert excess(group("proxy", 5.0, 3.0, 4.0), per_address=2) == []


def test_total_when_it_is_exceeded_then_the_largest_address_loses_first() -> None:
    groups = group("a", 1.0) | group("b", 9.0, 8.0, 7.0, 6.0) | group("c", 2.0, 3.0)
    lost = excess(groups, total=5)
    assert lost == [("b", 6.0, EndReason.TOTAL_LIMIT), ("b", 7.0, EndReason.TOTAL_LIMIT)]
    assert {address for address, _, _ in excess(groups, total=3)} == {"b", "c"}


def test_total_when_all_addresses_have_as_many_then_those_idle_longest_go() -> None:
    groups = group("a", 3.0) | group("b", 1.0) | group("c", 2.0)
    assert [address for address, _, _ in excess(groups, total=1)] == ["b", "c"]


def test_total_when_only_a_trusted_proxy_is_left_then_it_loses_too() -> None:
    groups = group("proxy", 1.0, 2.0, 3.0) | group("a", 5.0)
    assert [address for address, _, _ in excess(groups, total=2)] == ["a", "proxy"]


def test_limits_when_both_are_exceeded_then_each_connection_goes_once() -> None:
    lost = excess(group("a", *map(float, range(10))), per_address=4, total=2)
    assert len({since for _, since, _ in lost}) == len(lost) == 8
