"""Programs that try to reach the network, and the layer that stops each."""

from typing import Any

from tests.support.escape import Probe, attempt, confined, controls
from tests.support.escape_server import Target

pytest_plugins = ["tests.support.escape_fixtures"]

FILTERED = {"EPERM": "seccomp"}
NO_ROUTE = {"ENETUNREACH": "net_namespace"}
NOBODY_LISTENS = {"ECONNREFUSED": "net_namespace"}
NOT_THERE = {"ENOENT": "mount_namespace"}
SEES_NET: dict[str, Any] = {"control": True, "keeps": ("net",)}

# Numbers of linux/socket.h, with a type that each family has.
FAMILIES = {
    "packet": (17, 3, 0x0300), "vsock": (40, 1, 0), "alg": (38, 5, 0), "xdp": (44, 3, 0),
    "key": (15, 3, 2), "bluetooth": (31, 3, 1), "can": (29, 3, 1), "tipc": (30, 1, 0),
    "rds": (21, 5, 0), "kcm": (41, 5, 0), "smc": (43, 1, 0), "qipcrtr": (42, 2, 0),
    "x25": (9, 5, 0), "ax25": (3, 2, 0), "ipx": (4, 2, 0), "appletalk": (5, 2, 0),
    "llc": (26, 1, 0), "pppox": (24, 2, 0), "phonet": (35, 2, 0), "nfc": (39, 3, 0),
    "ieee802154": (36, 2, 0), "caif": (37, 1, 0), "mctp": (45, 2, 0), "rxrpc": (33, 2, 2),
    "raw IPv4": (2, 3, 255), "raw IPv6": (10, 3, 58), "ping": (2, 2, 1), "sctp": (2, 1, 132),
    "dccp": (2, 6, 33), "dccp by its kind": (2, 6, 0), "sctp by its kind": (10, 5, 0),
    "raw by its kind": (2, 3, 0), "udplite": (2, 2, 136), "mptcp": (2, 1, 262),
    "netlink of sockets": (16, 3, 4), "netlink of packet filters": (16, 3, 12),
    "netlink of audit": (16, 3, 9), "netlink of devices": (16, 3, 15),
    "generic netlink": (16, 3, 16), "netlink of IPsec": (16, 3, 6),
    "netlink of ciphers": (16, 3, 21), "netlink of SELinux": (16, 3, 7),
}  # fmt: skip
# Those that every kernel gives to root of a namespace.
EVERYWHERE = {"packet", "raw IPv4", "raw IPv6", "generic netlink", "netlink of devices"}


def connect(name: str, address: str, stopped: dict[str, str], family: int = 2) -> Probe:
    work = f"socket.socket({family}, socket.SOCK_STREAM).connect({address})"
    return attempt(name, work, stopped, **({} if stopped is NO_ROUTE else SEES_NET))


def send(name: str, address: str, family: int = 2) -> Probe:
    return attempt(name, f"(s := socket.socket({family}, socket.SOCK_DGRAM)).setsockopt("
                   f"socket.SOL_SOCKET, socket.SO_BROADCAST, 1) or s.sendto(b'x', {address})",
                   NO_ROUTE)  # fmt: skip


PROBES = [
    # The machine itself
    connect("the server's own port", "('127.0.0.1', facts['server_port'])", NOBODY_LISTENS),
    connect("a service on loopback", "('127.0.0.1', facts['port'])", NOBODY_LISTENS),
    connect("a service on another loopback address", "('0.0.0.0', facts['port'])", NOBODY_LISTENS),
    connect("a service on IPv6's loopback", "('::1', facts['port6'])",
            {**NOBODY_LISTENS, "EADDRNOTAVAIL": "net_namespace"}, family=10),
    connect("a service by an IPv4 address in IPv6", "('::ffff:127.0.0.1', facts['port'])",
            NOBODY_LISTENS, family=10),
    Probe("the machine's own addresses",
          "got = set()\nfor a in facts['addresses']:\n"
          "  try: got.add(socket.create_connection((a, facts['port']), 2))\n"
          "  except OSError as error: got.add(errno.errorcode[error.errno])\n"
          "print(*got - {'EADDRNOTAVAIL', 'ENETUNREACH'}, 'and nothing else')",
          {"and nothing else": "net_namespace"}, **SEES_NET),
    connect("an abstract socket", "'\\0' + facts['abstract_socket']", NOBODY_LISTENS, family=1),
    connect("a socket of a path", "facts['path_socket']", NOT_THERE, family=1),
    attempt("the service's own sockets",
            "socket.socket(1).connect(facts['data_dir'] + '/run/socket')", NOT_THERE),
    *(attempt(f"socket {path}", f"socket.socket(1).connect('{path}')", NOT_THERE) for path in (
        "/run/docker.sock", "/var/run/docker.sock", "/run/dbus/system_bus_socket",
        "/run/systemd/private", "/run/containerd/containerd.sock", "/run/snapd.socket")),
    # Beyond it
    connect("an address outside", "('192.0.2.1', 80)", NO_ROUTE),
    connect("an IPv6 address outside", "('2001:db8::1', 80)", NO_ROUTE, family=10),
    connect("the metadata address", "('169.254.169.254', 80)", NO_ROUTE),
    connect("the IPv6 metadata address", "('fd00:ec2::254', 80)", NO_ROUTE, family=10),
    send("a datagram outside", "('192.0.2.1', 53)"),
    send("a broadcast", "('255.255.255.255', 68)"),
    send("a multicast", "('224.0.0.251', 5353)"),
    Probe("a name", "try: socket.getaddrinfo('example.com', 80)\n"
          "except socket.gaierror as error: print(error.errno == socket.EAI_AGAIN or error)",
          {"True": "net_namespace", "[Errno -2] Name or service not known": "net_namespace"}),
    # What can be seen of it
    Probe("interfaces", "print([name for _, name in socket.if_nameindex()])",
          {"['lo']": "net_namespace"}, **SEES_NET),
    Probe("routes", "print(len(text('/proc/net/route').splitlines()) - 1)",
          {"0": "net_namespace"}, **SEES_NET),
    Probe("the machine's connections",
          "print([len(text('/proc/net/' + n).splitlines()) - 1 for n in ('tcp', 'tcp6', 'udp')])",
          {"[0, 0, 0]": "net_namespace"}, **SEES_NET),
    Probe("the machine's unix sockets",
          "print(facts['abstract_socket'] in text('/proc/net/unix'))",
          {"False": "net_namespace"}, **SEES_NET),
    # Changing the own network
    attempt("switch the loopback off",
            "__import__('fcntl').ioctl(socket.socket(), 0x8914, struct.pack('16sh14x', b'lo', 0))",
            {"EPERM": "no_capabilities"}, control=True),
    attempt("make an interface",
            "__import__('fcntl').ioctl(socket.socket(), 0x89a0, b'bridge' + bytes(10))",
            {"ENOTTY": "seccomp"}),
    attempt("bind to a device",
            "socket.socket().setsockopt(1, 25, b'lo\\0') or "
            "socket.socket().setsockopt(1, 36, 1)", {"EPERM": "no_capabilities"}, control=True),
    attempt("a low port", "socket.socket(2, 2).bind(('127.0.0.1', 80))",
            {"EACCES": "no_capabilities"}, control=True),
    attempt("a transparent proxy", "socket.socket().setsockopt(0, 19, 1)",
            {"EPERM": "no_capabilities"}, control=True),
    attempt("packet filters", "socket.socket().setsockopt(0, 64, bytes(84))",
            {"EPERM": "no_capabilities", "ENOPROTOOPT": "no_capabilities"}),
    # Kinds of sockets
    *(attempt(f"socket of {name}", f"call('socket', *{words})", FILTERED,
              control=name in EVERYWHERE) for name, words in FAMILIES.items()),
    Probe("any other family",
          "got = set()\nfor family in set(range(64)) - {1, 2, 10, 16}:\n"
          "  for kind in (1, 2, 3, 5):\n"
          "    try: got.add(call('socket', family, kind, 0))\n"
          "    except OSError as error: got.add(errno.errorcode[error.errno])\nprint(*got)",
          FILTERED, control=True),
    # What is made of a socket later
    *(attempt(name, f"socket.socket({words}", FILTERED, control=True)
      for name, words in {
          "encryption by the kernel": ").setsockopt(6, 31, b'tls')",
          "a tunnel": "2, 2).setsockopt(17, 100, 2)",
          "another family later": ").setsockopt(41, 1, 2)"}.items()),
    *(attempt(f"bytes out of their order, by {name}", work, FILTERED, control=True)
      for name, work in {
          "send": "socket.socketpair()[0].send(b'x', 1)",
          "sendmsg": "socket.socketpair()[0].sendmsg([b'x'], [], 1)"}.items()),
    attempt("a pair of another family", "call('socketpair', 30, 1, 0, bytes(8))", FILTERED,
            control=True),
]  # fmt: skip


@confined(PROBES)
def test_network_when_reached_for_from_inside_then_the_layer_stops_it(
    probe: Probe, target: Target
) -> None:
    target.require_stopped(probe)


@controls(PROBES)
def test_network_when_nothing_confines_then_the_probe_gets_through(
    probe: Probe, target: Target
) -> None:
    target.require_passes_unconfined(probe)
