"""Files beside the executable for machines that restrict sandboxes: AppArmor profile, unit."""

import shutil
import subprocess
from pathlib import Path

import pytest

from plugins.sandboxes.bubblewrap import diagnosis

PACKAGING = Path(__file__).resolve().parents[4] / "packaging"
EXECUTABLE = "/opt/monkey-coder/monkey-coder"


def test_diagnosis_when_apparmor_denies_namespaces_then_names_the_profile_and_its_path(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(path: str) -> str:
        return "1" if "apparmor" in path else ""

    monkeypatch.setattr(diagnosis, "_read", read)
    problem, remedy = diagnosis.diagnose("bwrap: setting up uid map: Permission denied")

    assert "AppArmor" in problem
    for part in ("packaging/apparmor/monkey-coder", "/etc/apparmor.d/monkey-coder", EXECUTABLE):
        assert part in remedy
    assert diagnosis.namespace_remedy() == remedy


def test_profile_when_read_then_it_is_for_the_executable_that_the_unit_starts() -> None:
    profile = (PACKAGING / "apparmor" / "monkey-coder").read_text()
    unit = (PACKAGING / "monkey-coder.service").read_text()

    assert f"profile monkey-coder {EXECUTABLE} flags=(unconfined)" in profile
    assert "\n  userns,\n" in profile
    assert f"ExecStart={EXECUTABLE} serve" in unit
    assert "\nDelegate=yes\n" in unit


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd: not on this machine"
)
def test_unit_when_verified_by_systemd_then_nothing_is_wrong(tmp_path: Path) -> None:
    """The unit starts /bin/true here, since the executable is not on this machine."""
    unit = (PACKAGING / "monkey-coder.service").read_text().replace(EXECUTABLE, "/bin/true")
    (tmp_path / "monkey-coder.service").write_text(unit)
    command = ["systemd-analyze", "verify", str(tmp_path / "monkey-coder.service")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    problems = [line for line in done.stderr.splitlines() if "monkey-coder.service" in line]
    assert problems == []
