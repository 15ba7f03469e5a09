"""The initramfs: its archive, and the kernel modules in it."""

import gzip
import lzma
from pathlib import Path

import pytest

from appliance.errors import SandboxUnavailable
from plugins.sandboxes.microvm import (
    kernel_modules,
)
from plugins.sandboxes.microvm.initramfs import build_initramfs, cpio_archive
from plugins.sandboxes.microvm.kernel_modules import KernelModules, required_modules


def unpack_cpio(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content by name; the reader's own view of the format (initramfs buffer-format)."""
    entries: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size - 1].decode()
        start = at + -(-(110 + name_size) // 4) * 4
        if name == "TRAILER!!!":
            return entries
        entries[name] = (mode, archive[start : start + size])
        at = start + -(-size // 4) * 4


@pytest.mark.parametrize("content", [b"", b"a", b"abc", b"abcd", bytes(5000)])
def test_cpio_of_any_length_is_read_back_whole(content: bytes):
    archive = cpio_archive(("dev", "root"), {"init": content, "next": b"x"})

    assert unpack_cpio(archive) == {
        "dev": (0o040755, b""),
        "root": (0o040755, b""),
        "init": (0o100755, content),
        "next": (0o100755, b"x"),
    }


def module(name: str, depends: str = "", softdep: str = "") -> bytes:
    info = [f"name={name}", f"depends={depends}"] + ([f"softdep={softdep}"] if softdep else [])
    return b"\x7fELF....\0" + b"".join(word.encode() + b"\0" for word in info) + b"the rest"


def test_modules_are_loaded_after_what_they_need(tmp_path: Path):
    for name, depends in {"a": "b-c,d", "b_c": "d", "d": ""}.items():
        (tmp_path / f"{name.replace('_', '-')}.ko").write_bytes(module(name, depends))

    order = KernelModules(tmp_path).load_order(["a", "d"])

    assert order == [module("d"), module("b_c", "d"), module("a", "b-c,d")]


def test_modules_are_unpacked_however_they_are_packed(tmp_path: Path):
    (tmp_path / "x.ko.gz").write_bytes(gzip.compress(module("x")))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "y.ko.xz").write_bytes(lzma.compress(module("y")))

    assert KernelModules(tmp_path).load_order(["x", "y"]) == [module("x"), module("y")]


def test_modules_that_need_each_other_are_loaded_once(tmp_path: Path):
    (tmp_path / "a.ko").write_bytes(module("a", "b"))
    (tmp_path / "b.ko").write_bytes(module("b", "a"))

    assert len(KernelModules(tmp_path).load_order(["a"])) == 2


def test_module_asking_for_another_by_its_alias_needs_it_first():
    assert required_modules(module("ext4", "jbd2", "pre: crc32c post: late")) == ["jbd2", "crc32c"]


def test_modules_of_a_kernel_without_any_are_none():
    assert KernelModules(None).load_order(["virtio_blk"]) == []
    assert "init" in unpack_cpio(build_initramfs(KernelModules(None)))


def test_module_packed_with_zstd_without_that_program_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kernel_modules, "_PATH", str(tmp_path))
    (tmp_path / "a.ko.zst").write_bytes(b"\x28\xb5\x2f\xfd")

    with pytest.raises(SandboxUnavailable, match="install the package zstd"):
        KernelModules(tmp_path).load_order(["a"])
