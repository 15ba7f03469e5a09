"""The kernel that machines boot: the setting's, or the host's newest."""

import struct
from pathlib import Path

import pytest

from appliance.errors import SandboxUnavailable
from plugins.sandboxes.microvm import (
    kernel,
)
from tests.support.microvm import only_x86_64


def bz_image(version: str) -> bytes:
    head = bytearray(0x8000)
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", head, 0x20E, 0x3000)
    text = f"{version} (who@where) #1".encode() + b"\0"
    head[0x3200 : 0x3200 + len(text)] = text
    return bytes(head)


@only_x86_64
def test_kernel_of_the_setting_is_found_with_the_modules_beside_it(tmp_path: Path):
    image = tmp_path / "boot" / "vmlinuz"
    folder = tmp_path / "lib/modules/6.1.0-7-cloud"
    (folder / "kernel").mkdir(parents=True)
    image.parent.mkdir()
    image.write_bytes(bz_image("6.1.0-7-cloud"))

    assert kernel.find_kernel(str(image)) == kernel.Kernel(image, "6.1.0-7-cloud", folder)


@only_x86_64
@pytest.mark.parametrize("content", [b"", b"#!/bin/sh\n", bytes(70_000)])
def test_kernel_of_the_setting_that_is_none_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "image").write_bytes(content)

    with pytest.raises(SandboxUnavailable, match="is not a Linux kernel"):
        kernel.find_kernel(str(tmp_path / "image"))


@only_x86_64
def test_kernel_of_the_setting_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(SandboxUnavailable, match=r"/gone, which can't be read.*microvm_kernel"):
        kernel.find_kernel(str(tmp_path / "gone"))


@only_x86_64
def test_newest_kernel_of_the_host_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for version in ("6.9.1", "6.10.2", "5.15.0"):
        (tmp_path / f"vmlinuz-{version}").write_bytes(bz_image(version))
    monkeypatch.setattr(kernel, "_BOOT", tmp_path)

    assert kernel.find_kernel("").version == "6.10.2"


@only_x86_64
def test_host_without_a_kernel_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernel, "_BOOT", tmp_path)
    monkeypatch.setattr(kernel, "_OTHER_KERNELS", tmp_path)

    with pytest.raises(SandboxUnavailable, match=r"no kernel in /boot.*install a kernel package"):
        kernel.find_kernel("")
