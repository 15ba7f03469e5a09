"""The same isolation through every other route and in every other language."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.escape import Probe, attempt, parametrize_probes
from tests.support.escape_calls import PRELUDE
from tests.support.escape_server import Target
from tests.support.server_process import command

pytest_plugins = ["tests.support.escape_fixtures"]

PROBES = [
    attempt("a file that all may read", "text(facts['open_file'])", {"ENOENT": "mount_namespace"}),
    attempt("a signal to the service", "os.kill(facts['pid'], 0)", {"ESRCH": "pid_namespace"}),
    attempt("the server's port", "socket.create_connection(('127.0.0.1', facts['server_port']))",
            {"ECONNREFUSED": "net_namespace"}),
    attempt("another namespace", "call('unshare', 0x10000000)", {"EPERM": "seccomp"}),
]  # fmt: skip


def source(probe: Probe, target: Target) -> str:
    """The probe as a program that needs nothing from outside."""
    facts = json.dumps(target.facts)
    return f"import os\nos.environ['FACTS'] = {facts!r}\n{PRELUDE}{probe.code}\n"


@parametrize_probes(PROBES)
def test_piston_when_a_probe_comes_that_way_then_stopped_too(probe: Probe, target: Target) -> None:
    body = {"language": "python", "version": "*", "files": [{"content": source(probe, target)}]}
    answer = target.client.post("/api/v2/execute", json=body).json()

    assert answer["run"]["output"].strip() in probe.stopped, answer


@parametrize_probes(PROBES[:1])
def test_command_when_a_probe_comes_that_way_then_stopped_too(
    probe: Probe, target: Target, tmp_path: Path
) -> None:
    (tmp_path / "probe.py").write_text(source(probe, target))
    words = ("sandbox", "run", tmp_path / "probe.py", "--url", target.server.url)
    done = command(*words, env={"MONKEY_CODER_API_KEY": target.server.key})

    assert done.stdout.strip() in probe.stopped, done


@parametrize_probes(PROBES)
def test_stream_when_a_probe_comes_that_way_then_stopped_too(probe: Probe, target: Target) -> None:
    body = {"language": "python", "code": source(probe, target)}
    events: list[dict[str, Any]] = []
    with target.client.stream("POST", "/api/v1/sandbox/run/stream", json=body) as answer:
        events += [
            json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")
        ]

    result = events[-1]["result"]
    assert result["stdout"].strip() in probe.stopped, result
    assert probe.stopped[result["stdout"].strip()] in result["isolation"]["layers"]


SHELL = {
    "shadow": ("cat /etc/shadow", "No such file"),
    "the service": ("kill -0 {pid}", "No such process"),
    "a setuid program": ("mount --bind /tmp /tmp", "must be superuser"),
    "a namespace": ("unshare --user true", "Operation not permitted"),
    "the system": ("echo x >/usr/bin/x", "Read-only file system"),
    "the network": ("exec 3<>/dev/udp/192.0.2.1/53", "unreachable"),
}


@pytest.mark.parametrize("name", list(SHELL))
def test_shell_when_it_tries_the_same_then_stopped_too(name: str, target: Target) -> None:
    code, words = SHELL[name]
    answer = target.run(argv=["bash", "-c", code.format(**target.facts)])

    assert answer["exit_code"] != 0
    assert words in answer["stderr"], answer


def test_runs_when_they_are_neighbours_then_they_do_not_see_each_other(target: Target) -> None:
    """Two at once, of one caller: one shows itself in every way, the other looks for it."""
    show = (
        "import os, socket, time\n"
        "for folder in ('/tmp', '/dev/shm', '/workspace'): open(folder + '/neighbour', 'w')\n"
        "server = socket.socket(1); server.bind('\\0neighbour'); server.listen()\n"
        "other = socket.socket(2, 2); other.bind(('127.0.0.1', 7777))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)"
    )
    look = (
        "import os, socket\nseen = [p for p in ('/tmp', '/dev/shm', '/workspace') "
        "if os.path.exists(p + '/neighbour')]\n"
        "try: seen.append(socket.socket(1).connect('\\0neighbour'))\nexcept OSError: pass\n"
        "seen += open('/proc/net/udp').readlines()[1:]\n"
        "print(seen, sum(name.isdigit() for name in os.listdir('/proc')))"
    )
    body = {"argv": ["python", "-c", show]}
    with target.client.stream("POST", "/api/v1/sandbox/run/stream", json=body) as answer:
        lines = answer.iter_lines()
        assert any("ready" in line for line in lines)
        with target.server.client() as client:
            found = client.post("/api/v1/sandbox/run", json={"argv": ["python", "-c", look]})

    assert found.json()["stdout"] == "[] 2\n"


def test_runs_when_they_follow_each_other_then_nothing_passes_from_one_to_the_next(
    target: Target,
) -> None:
    code = (
        "import builtins, os\nseen = [place for place in ('/tmp', '/dev/shm', '/workspace')"
        " if os.listdir(place)]\n"
        "for place in ('/tmp', '/dev/shm', '/workspace'): open(place + '/left', 'w')\n"
        "print(seen, hasattr(builtins, 'left')); builtins.left = True\n"
        "print(hash('seed'), id(object()))"
    )
    outputs = [target.python(code)["stdout"].splitlines() for _ in range(3)]

    assert {first for first, _ in outputs} == {"[] False"}
    assert len({second for _, second in outputs}) == 3
