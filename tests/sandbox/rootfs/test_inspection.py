"""What counts as a root file system for this machine."""

import platform
import shutil
from pathlib import Path

import pytest

from appliance.errors import InvalidInput
from appliance.sandbox.rootfs import inspection
from tests.support.rootfs import (
    ignore_progress,
    open_store,
    remaining_names,
)


def no_usr(root: Path) -> None:
    shutil.rmtree(root / "usr")


def usr_is_a_link(root: Path) -> None:
    (root / "usr").rename(root / "real")
    (root / "usr").symlink_to("real")


def no_shell(root: Path) -> None:
    (root / "bin" / "sh").unlink()


def shell_is_a_script(root: Path) -> None:
    (root / "bin" / "sh").write_text("#!/bin/cat\n")


def shell_leads_out(root: Path) -> None:
    (root / "bin" / "sh").unlink()
    (root / "bin" / "sh").symlink_to("/bin/not-here")


def shell_is_a_loop(root: Path) -> None:
    (root / "bin" / "sh").unlink()
    (root / "bin" / "sh").symlink_to("sh")


def other_machine(root: Path) -> None:
    shell = bytearray((root / "bin" / "sh").read_bytes())
    shell[18:20] = (183 if platform.machine() == "x86_64" else 62).to_bytes(2, "little")
    (root / "bin" / "sh").write_bytes(shell)


def cut_shell(root: Path) -> None:
    (root / "bin" / "sh").write_bytes((root / "bin" / "sh").read_bytes()[:70])


def no_loader(root: Path) -> None:
    for folder in ("lib", "lib64"):
        if (root / folder).exists():
            shutil.rmtree(root / folder)
    (root / "lib").mkdir()


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (no_usr, "no folder /usr"), (usr_is_a_link, "no folder /usr"),
        (no_shell, "neither /bin/sh"), (shell_is_a_script, "no executable ELF"),
        (shell_leads_out, "neither /bin/sh"), (shell_is_a_loop, "neither /bin/sh"),
        (other_machine, "this one is"), (cut_shell, "no executable ELF"),
        (no_loader, "needs '/lib"),
    ],
)  # fmt: skip
def test_add_when_it_is_no_root_for_this_machine_then_says_what_is_missing(
    root: Path, data: Path, tmp_path: Path, break_it: object, reason: str
) -> None:
    assert callable(break_it)
    broken = tmp_path / "broken"
    shutil.copytree(root, broken, symlinks=True)
    break_it(broken)
    with pytest.raises(InvalidInput, match=reason):
        open_store(data).add(broken, None, "", ignore_progress)
    assert remaining_names(data) == set()


def test_resolve_when_links_lead_about_then_as_inside(tmp_path: Path) -> None:
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "bin").symlink_to("/usr/bin")
    (tmp_path / "usr" / "bin" / "real").write_text("x")
    (tmp_path / "usr" / "bin" / "sh").symlink_to("../../../../usr/bin/real")
    (tmp_path / "usr" / "bin" / "out").symlink_to("/etc/passwd")
    assert inspection.resolve_path(tmp_path, "/bin/sh") == tmp_path / "usr" / "bin" / "real"
    assert inspection.resolve_path(tmp_path, "/bin/out") is None
