"""The root file system of machines."""

from pathlib import Path

import pytest

from appliance.errors import SandboxUnavailable
from plugins._shared.rootfs.python import Interpreter
from plugins.sandboxes.microvm import (
    root_image,
)
from tests.support.microvm import only_x86_64


@only_x86_64
def test_small_root_holds_a_shell_the_python_and_what_they_need(tmp_path: Path):
    python = tmp_path / "python"
    (python / "bin").mkdir(parents=True)
    (python / "bin" / "python3").write_bytes(b"x")
    folder = tmp_path / "root"

    root_image.build_tree(folder, None, Interpreter(python), {"guest_init.pyc": b"y"})

    assert (folder / "bin/sh").is_file()
    assert (folder / "lib64/ld-linux-x86-64.so.2").is_file()
    assert list(folder.rglob("libc.so.6"))
    assert (folder / "opt/python/bin/python3").read_bytes() == b"x"
    assert (folder / "opt/sandbox/guest_init.pyc").read_bytes() == b"y"
    assert "sandbox:x:1000" in (folder / "etc/passwd").read_text()


@only_x86_64
def test_root_of_the_administrator_keeps_its_files_and_gets_the_products(tmp_path: Path):
    base, python = tmp_path / "base", tmp_path / "python"
    (python / "bin").mkdir(parents=True)
    for name in ("etc", "usr/bin", "opt/python/old", "tmp"):
        (base / name).mkdir(parents=True)
    (base / "etc/passwd").write_text("theirs")
    (base / "bin").symlink_to("usr/bin")

    root_image.build_tree(tmp_path / "root", base, Interpreter(python), {"guest_init.pyc": b"y"})

    assert (tmp_path / "root/etc/passwd").read_text() == "theirs"
    assert (tmp_path / "root/bin").is_symlink()
    assert not (tmp_path / "root/opt/python/old").exists()
    assert (tmp_path / "root/workspace").is_dir()
    assert (base / "opt/python/old").is_dir()


def test_root_whose_own_python_is_used_has_it_where_the_bundled_one_would_be(tmp_path: Path):
    (tmp_path / "base/usr/bin").mkdir(parents=True)
    (tmp_path / "base/usr/bin/python3").write_bytes(b"theirs")
    folder = tmp_path / "root"

    root_image.build_tree(folder, tmp_path / "base", Interpreter(None, "/usr/bin/python3"), {})

    for name in ("bin/python", "bin/python3", "libexec/supervisor"):
        assert (folder / "opt/python" / name).readlink() == Path("/usr/bin/python3")


def test_root_without_the_program_that_writes_it_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(root_image, "_PATH", str(tmp_path))

    with pytest.raises(SandboxUnavailable, match=r"mke2fs is missing.*e2fsprogs"):
        root_image.write_image(tmp_path, tmp_path / "image")
