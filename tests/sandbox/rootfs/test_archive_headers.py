"""Archive headers that would cost time or memory are refused."""

import io
import lzma
import os
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.errors import InvalidInput
from appliance.sandbox.rootfs.formats.tar_guard import GuardedStream
from tests.support.rootfs import (
    LIMITS,
    MIB,
    add_file,
    ignore_progress,
    make_root,
    member,
    open_store,
    remaining_names,
    tar_of,
)

_END = bytes(1024)


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    return member(name, kind, size=size).tobuf(tarfile.USTAR_FORMAT)


def below_zero(size: int, kind: bytes) -> bytes:
    """A header with a size that only the binary form of its field can say."""
    block = bytearray(header("usr/x", 0, kind))
    block[124:136] = b"\xff" * 4 + struct.pack(">q", size)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def records(content: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return header("x", len(content), kind) + content + bytes(-len(content) % 512)


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    length += len(str(length + len(str(length))))
    return b"%d %s=%s\n" % (length, key, value)


def sparse(*more: bytes) -> bytes:
    first = (record(b"GNU.sparse.major", b"1"), record(b"GNU.sparse.minor", b"0"))
    return records(b"".join((*first, *more)))


DIGITS = b"1" * 1_000_000
NO_RECORD, TOO_LONG = "malformed record", "header larger than 1 MiB"
# Versions of the standard library differ in when they see that a size is below zero.
BELOW_ZERO = f"damaged|differs in length|{TOO_LONG}"
HEADERS: dict[str, tuple[bytes, str]] = {
    "digits without end": (records(DIGITS), NO_RECORD),
    "digits without end in a value": (records(record(b"a", DIGITS)), NO_RECORD),
    "records that overlap": (records(b"3 \n" * 300_000 + b"="), NO_RECORD),
    "a record longer than its header": (records(b"999 a=b\n"), NO_RECORD),
    "a record of no length": (records(b"0 a=b\n"), NO_RECORD),
    "a record without its value": (records(b"5 ab\n"), NO_RECORD),
    "something after the records": (
        records(record(b"a", b"b") + b"\0\0x"), "data after its records"),
    "many headers for one file": (records(record(b"a", b"b" * 9000)) * 200, TOO_LONG),
    "many global headers for one file": (
        records(record(b"a", b"b" * 9000), tarfile.XGLTYPE) * 200, TOO_LONG),
    "a map of a sparse file without end": (
        sparse(record(b"GNU.sparse.name", b"usr/s"), record(b"GNU.sparse.realsize", b"9"))
        + header("usr/x", 2 * MIB) + b"9999999\n" + b"1\n" * MIB, TOO_LONG),
    "a size below zero": (below_zero(-1024, b"0"), BELOW_ZERO),
    "a size below zero that leads back": (below_zero(-512, b"Z"), BELOW_ZERO),
    "a size below zero that leads far back": (below_zero(-5120, b"Z"), BELOW_ZERO),
    "a header with a size below zero": (below_zero(-512, b"x"), BELOW_ZERO),
    "a long name with a size below zero": (below_zero(-512, b"L"), BELOW_ZERO),
    "a sparse file with a size below zero": (
        sparse(record(b"GNU.sparse.name", b"usr/s"), record(b"GNU.sparse.realsize", b"-5"))
        + header("usr/x", 512) + b"0\n" + bytes(510), BELOW_ZERO),
    "a name of 10,000 bytes": (
        records(record(b"path", b"usr/" + b"x" * 10_000)) + header("x", 0), "no valid path"),
    "a name with a zero": (
        records(record(b"path", b"usr/a\0b")) + header("x", 0), "no valid path"),
}  # fmt: skip


@pytest.mark.parametrize("attack", HEADERS)
def test_add_when_a_header_is_laid_out_to_harm_then_refused(tmp_path: Path, attack: str) -> None:
    content, reason = HEADERS[attack]
    (tmp_path / "t.tar").write_bytes(header("usr/", 0, tarfile.DIRTYPE) + content + _END)
    with pytest.raises(InvalidInput, match=reason):
        open_store(tmp_path / "data").add(tmp_path / "t.tar", None, "", ignore_progress)
    assert remaining_names(tmp_path / "data") == set()


def test_add_when_an_archive_has_a_global_header_then_it_is_read(tmp_path: Path) -> None:
    root = make_root(tmp_path / "root")
    plain = tar_of(root, tmp_path / "plain.tar", lambda _: None).read_bytes()
    one = records(record(b"comment", b"of all that follow"), tarfile.XGLTYPE)
    (tmp_path / "t.tar").write_bytes(one + plain)
    assert (
        open_store(tmp_path / "data").add(tmp_path / "t.tar", None, "", ignore_progress).kind
        == "tar"
    )


def test_stream_when_read_in_a_header_then_the_bound_is_for_one_file() -> None:
    stream = GuardedStream(io.BytesIO(bytes(8 * MIB)), LIMITS)
    for _ in range(3):
        with stream.header():
            stream.read(MIB)
    with stream.header():
        stream.read(1000)
        with pytest.raises(InvalidInput, match=TOO_LONG):
            stream.read(MIB - 999)


def test_add_when_xz_wants_far_too_much_memory_then_says_how_to_pack(tmp_path: Path) -> None:
    packed = bytearray(lzma.compress(header("usr/x", 0) + _END, preset=0))
    size = (packed[12] + 1) * 4
    block = packed[12 : 12 + size]
    block[block.index(b"\x21\x01") + 2] = 40  # a dictionary of 4 GiB
    block[-4:] = struct.pack("<I", zlib.crc32(bytes(block[:-4])))
    packed[12 : 12 + size] = block
    (tmp_path / "t.tar.xz").write_bytes(packed)
    with pytest.raises(InvalidInput, match="needs more than 256 MiB of memory"):
        open_store(tmp_path / "data").add(tmp_path / "t.tar.xz", None, "", ignore_progress)


@pytest.mark.parametrize("padding", [0, 8])
def test_add_when_xz_has_several_streams_then_all_are_read(tmp_path: Path, padding: int) -> None:
    plain = tar_of(make_root(tmp_path / "root"), tmp_path / "t.tar", lambda _: None).read_bytes()
    parts = (plain[:5000], plain[5000:])
    packed = bytes(padding).join(lzma.compress(part, preset=0) for part in parts)
    (tmp_path / "t.tar.xz").write_bytes(packed + bytes(padding))
    expected = open_store(tmp_path / "other").add(tmp_path / "t.tar", None, "", ignore_progress)
    record = open_store(tmp_path / "data").add(tmp_path / "t.tar.xz", None, "", ignore_progress)
    assert record.sha256 == expected.sha256


def test_add_when_the_file_is_far_larger_than_a_root_may_be_then_it_is_not_read(
    tmp_path: Path,
) -> None:
    (tmp_path / "t.tar").write_bytes(header("usr/x", 0))
    os.truncate(tmp_path / "t.tar", 1 << 42)
    with pytest.raises(InvalidInput, match="rootfs_mib"):
        open_store(tmp_path / "data").add(tmp_path / "t.tar", None, "", ignore_progress)


# Names and marks that are ours, or the kernel's


def test_add_when_members_are_named_as_our_own_files_then_they_are_in_the_tree_alone(
    tmp_path: Path,
) -> None:
    def change(archive: tarfile.TarFile) -> None:
        for name in ("record.json", "image.squashfs", "tree", ".lock", ".unfinished-x"):
            add_file(archive, name, b"{}")

    archive = tar_of(make_root(tmp_path / "root"), tmp_path / "t.tar", change)
    record = open_store(tmp_path / "data").add(archive, None, "", ignore_progress)
    home = tmp_path / "data" / "sandbox-rootfs" / "t"
    assert {path.name for path in home.iterdir()} == {"record.json", "tree"}
    assert open_store(tmp_path / "data").list() == [record]
    assert (home / "tree" / "record.json").read_bytes() == b"{}"


def test_add_when_files_carry_capabilities_then_they_are_gone(tmp_path: Path) -> None:
    right = struct.pack("<5I", 0x02000001, 1 << 21, 0, 0, 0)  # CAP_SYS_ADMIN, effective
    root = make_root(tmp_path / "root")
    try:
        os.setxattr(root / "bin" / "sh", "security.capability", right)
    except OSError as error:
        pytest.skip(f"no capabilities can be set on files here: {error.strerror}")

    def change(archive: tarfile.TarFile) -> None:
        value = right.decode("latin-1")
        info = member("bin/rich", mode=0o755, pax_headers={
            "SCHILY.xattr.security.capability": value})  # fmt: skip
        archive.addfile(info)

    archive = tar_of(root, tmp_path / "t.tar", change)
    for source in (root, archive):
        open_store(tmp_path / "data").add(source, None, "", ignore_progress)
    trees = tmp_path / "data" / "sandbox-rootfs"
    for path in (trees / "root" / "tree" / "bin" / "sh", trees / "t" / "tree" / "bin" / "rich"):
        assert path.is_file()
        assert os.listxattr(path) == []


# Programs and libraries that lie


def library_with(content: bytes) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        for library in root.rglob("libc.so.6"):
            library.write_bytes(library.read_bytes() + content)

    return change


@pytest.mark.parametrize(
    "content", [b"GLIBC_" + b"9" * 5000 + b".1", b"GLIBC_1." + b"9" * 5000], ids=["major", "minor"]
)
def test_add_when_the_c_library_names_an_absurd_version_then_it_is_passed_over(
    tmp_path: Path, content: bytes
) -> None:
    plain = open_store(tmp_path / "other").add(
        make_root(tmp_path / "plain"), None, "", ignore_progress
    )
    root = make_root(tmp_path / "root")
    library_with(content)(root)
    assert open_store(tmp_path / "data").add(root, None, "", ignore_progress).glibc == plain.glibc


@pytest.mark.parametrize("name", ["\x1b[31mred", "caf\udce9", "a\nb"])
def test_add_when_the_shell_has_a_name_that_acts_on_a_terminal_then_refused(
    tmp_path: Path, name: str
) -> None:
    root = make_root(tmp_path / "root")
    (root / "bin" / "sh").rename(root / "bin" / name)
    (root / "bin" / "sh").symlink_to(name)
    with pytest.raises(InvalidInput, match="not printable") as caught:
        open_store(tmp_path / "data").add(root, None, "", ignore_progress)
    assert caught.value.message.isprintable()


def test_add_when_the_shell_asks_for_a_strange_loader_then_it_is_shown_harmless(
    tmp_path: Path,
) -> None:
    root = make_root(tmp_path / "root")
    shell = (root / "bin" / "sh").read_bytes()
    at = shell.index(b"/ld-linux")
    (root / "bin" / "sh").write_bytes(shell[:at] + b"/\x1b[2J\n" + shell[at + 6 :])
    with pytest.raises(InvalidInput, match="its sh needs") as caught:
        open_store(tmp_path / "data").add(root, None, "", ignore_progress)
    assert caught.value.message.isprintable()


def test_add_when_the_sources_own_name_is_no_utf8_then_the_record_tells_it_as_well_as_it_can(
    tmp_path: Path,
) -> None:
    root = make_root(tmp_path / "root").rename(tmp_path / "caf\udce9")
    record = open_store(tmp_path / "data").add(root, "cafe", "", ignore_progress)
    assert record.source == f"{tmp_path}/caf\N{REPLACEMENT CHARACTER}"
    assert open_store(tmp_path / "data").list() == [record]
