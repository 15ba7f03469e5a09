"""Parts of a machine: initramfs, drivers, kernel, command line, parameters, root image."""

import gzip
import lzma
import marshal
import os
import platform
import socket
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from appliance.domain.execution import Limits
from appliance.errors import SandboxUnavailable
from plugins._shared.rootfs.python import Interpreter
from plugins.sandboxes.microvm import (
    guest_init,
    kernel,
    kernel_modules,
    machine_factory,
    probe,
    qemu_argv,
    root_image,
)
from plugins.sandboxes.microvm.elf_assembler import SystemCall, assemble_elf
from plugins.sandboxes.microvm.initramfs import build_initramfs, cpio_archive
from plugins.sandboxes.microvm.kernel_modules import KernelModules, required_modules
from plugins.sandboxes.microvm.qemu_argv import Accelerator, MachineShape, QemuDescriptors
from plugins.sandboxes.microvm.qmp import QmpClient

WRITE, EXIT, CHDIR = 1, 60, 80
only_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="microvm is x86_64 only")


# cpio


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


# The assembled program


def run(tmp_path: Path, calls: list[SystemCall]) -> "subprocess.CompletedProcess[bytes]":
    path = tmp_path / "program"
    path.write_bytes(assemble_elf(calls))
    path.chmod(0o755)
    return subprocess.run([path], capture_output=True, timeout=30, check=False)


@only_x86_64
def test_assembled_program_does_its_calls_in_order(tmp_path: Path):
    calls = [
        SystemCall(WRITE, (1, b"one ", 4)),
        SystemCall(WRITE, (1, b"two", 3)),
        SystemCall(EXIT, (7,)),
    ]

    done = run(tmp_path, calls)

    assert (done.stdout, done.returncode) == (b"one two", 7)


@only_x86_64
def test_assembled_program_whose_required_call_fails_ends_with_its_number(tmp_path: Path):
    calls = [
        SystemCall(CHDIR, (b"/",)),
        SystemCall(CHDIR, (b"/there/is/none",)),
        SystemCall(EXIT, (0,)),
    ]

    assert run(tmp_path, calls).returncode == 2


@only_x86_64
def test_assembled_program_whose_other_call_fails_goes_on(tmp_path: Path):
    calls = [SystemCall(CHDIR, (b"/there/is/none",), required=False), SystemCall(EXIT, (5,))]

    assert run(tmp_path, calls).returncode == 5


@only_x86_64
def test_assembled_program_hands_lists_of_words_to_the_next_one(tmp_path: Path):
    execve = 59
    argv = [b"sh", b"-c", b'echo "$0 $1 $A"', b"zero", b"one"]

    done = run(tmp_path, [SystemCall(execve, (b"/bin/sh", argv, [b"A=b"])), SystemCall(EXIT, (9,))])

    assert (done.stdout, done.returncode) == (b"zero one b\n", 0)


# Modules


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


# The kernel


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


# QEMU's command line

FDS = QemuDescriptors(kernel=10, initramfs=11, root=12, port=13)


def test_command_line_gives_a_machine_without_a_network():
    arguments = qemu_argv.qemu_arguments(Accelerator.KVM, MachineShape(384, 1), FDS)

    assert {"-nodefaults", "-no-user-config", "-nographic", "-no-reboot"} <= set(arguments)
    assert not any("net" in word for word in arguments)
    assert arguments[arguments.index("-sandbox") + 1] == (
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
    )
    assert [word for word in arguments if word.startswith("virt")] == [
        "virtio-blk-device,drive=root",
        "virtio-serial-device,max_ports=2",
        "virtserialport,chardev=port,name=sandbox",
    ]
    assert all("read-only=on" in word for word in arguments if "driver=" in word)


@pytest.mark.parametrize("accelerator", list(Accelerator))
def test_command_line_of_a_restored_machine_differs_in_its_state_only(accelerator: Accelerator):
    fresh = qemu_argv.qemu_arguments(accelerator, MachineShape(384, 1), FDS)
    restored = qemu_argv.qemu_arguments(
        accelerator, MachineShape(384, 1), QemuDescriptors(10, 11, 12, 13, state=14)
    )

    assert restored == [*fresh, "-incoming", "fd:14"]


def test_command_line_without_kvm_names_no_kvm():
    arguments = qemu_argv.qemu_arguments(Accelerator.EMULATION, MachineShape(384, 2), FDS)

    assert not any("kvm" in word for word in arguments)
    assert arguments[arguments.index("-smp") + 1] == "2"


@pytest.mark.parametrize(
    ("memory_mib", "cpus", "expected"),
    [
        (256, 1.0, MachineShape(448, 1)),
        (1, 0.25, MachineShape(256, 1)),
        (4096, 2.5, MachineShape(4288, 3)),
    ],
)
def test_machine_is_large_enough_for_its_run(memory_mib: int, cpus: float, expected: MachineShape):
    limits = Limits(memory_bytes=memory_mib << 20, cpus=cpus)

    assert machine_factory.machine_shape(limits) == expected


def test_larger_machine_holds_a_smaller_one_only():
    assert MachineShape(384, 2).can_hold(MachineShape(384, 1))
    assert not MachineShape(384, 1).can_hold(MachineShape(384, 2))
    assert not MachineShape(384, 2).can_hold(MachineShape(448, 1))


# Run parameters


def test_run_parameters_differ_in_their_seed_and_carry_the_limits():
    limits = Limits(workspace_bytes=1000, workspace_files=17, tmp_bytes=2000, processes=5)
    encoded = [machine_factory.encode_run_parameters(limits) for _ in range(2)]

    first, second = (marshal.loads(each[guest_init.LENGTH_PREFIX.size :]) for each in encoded)

    assert (
        guest_init.LENGTH_PREFIX.unpack(encoded[0][: guest_init.LENGTH_PREFIX.size])[0]
        == len(encoded[0]) - guest_init.LENGTH_PREFIX.size
    )
    assert first["seed"] != second["seed"]
    assert len(first["seed"]) == 64
    assert (first["workspace_bytes"], first["workspace_files"]) == (1000, 17)
    assert first["processes"] == 6


# KVM


def test_kvm_problem_without_the_device_says_how_to_turn_virtualization_on(tmp_path: Path):
    problem, remedy = probe.kvm_problem(tmp_path / "kvm")

    assert "missing" in problem
    assert "nested virtualization" in remedy
    assert "sandbox.microvm_emulation" in remedy


def test_kvm_problem_when_the_device_is_not_accessible_names_the_group(tmp_path: Path):
    (tmp_path / "kvm").write_bytes(b"")

    problem, remedy = probe.kvm_problem(tmp_path / "kvm")

    assert "may not use" in problem
    assert "group kvm" in remedy


def test_kvm_problem_when_the_device_can_be_opened_is_none():
    assert probe.kvm_problem(Path(os.devnull)) == ("", "")


# QEMU's monitor


def answering(*lines: bytes) -> QmpClient:
    ours, theirs = socket.socketpair()

    def answer() -> None:
        with theirs:
            theirs.sendall(b'{"QMP": {}}\n')
            for line in lines:
                theirs.recv(65536)
                theirs.sendall(line + b"\n")

    threading.Thread(target=answer, daemon=True).start()
    return QmpClient(ours)


DONE = b'{"return": {}}'


def test_monitor_saves_once_qemu_says_completed(tmp_path: Path):
    busy, ready = (b'{"return": {"status": "%s"}}' % word for word in (b"active", b"completed"))
    monitor = answering(DONE, b'{"event": "X"}\n' + DONE, DONE, DONE, busy, ready)

    with (tmp_path / "state").open("wb") as file:
        monitor.save_state(file.fileno())
    monitor.close()


@pytest.mark.parametrize(
    "answers",
    [
        (b'{"error": {"desc": "no such command"}}',),
        (DONE, DONE, DONE, DONE, b'{"return": {"status": "failed"}}'),
        (b"no json",),
        (DONE,),
    ],
)
def test_monitor_that_refuses_or_ends_is_an_error(tmp_path: Path, answers: tuple[bytes, ...]):
    monitor = answering(*answers)

    with (
        (tmp_path / "state").open("wb") as file,
        pytest.raises(SandboxUnavailable, match="state was not saved"),
    ):
        monitor.save_state(file.fileno())
    monitor.close()


# The root file system


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
