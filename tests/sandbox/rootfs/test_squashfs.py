"""Squashfs images: compared with mksquashfs, and damaged ones."""

import base64
import io
import random
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from appliance.errors import InvalidInput
from appliance.sandbox.rootfs.formats import squashfs as rootfs_squashfs
from appliance.sandbox.rootfs.formats import squashfs_reader
from appliance.sandbox.rootfs.formats.entries import ArchiveLimits, EntryKind
from tests.support.rootfs import (
    LIMITS,
    MIB,
    ignore_progress,
    make_root,
    open_store,
    remaining_names,
)

# Made by mksquashfs 4.5.1 (gzip): two names of one file, a link, a setuid script, a sparse
# file of 300,000 bytes, an empty one, a device node and a pipe.
SMALL = base64.b64decode(
    "aHNxcwwAAAAAAAAAAAACAAEAAAABABEAwAIBAAQAAACLAQAAAAAAAPYBAAAAAAAA7gEAAAAAAAD//////////3AAAA"
    "AAAAAAEgEAAAAAAACvAQAAAAAAAOABAAAAAAAAaGVsbG8KIyEvYmluL3NoCqAAeNpjZVjCyAAFTEAM4jADCTYkcWao"
    "OCPDW7gYI5IedSDmAav7D5dnharhBmI9Pf3S4iL98vyiFGQjWJCMkGZQARvBiWQtOwMCsDGgAiYk9n8gYGJ4ywnjc6"
    "Lp40JzOgeSGVIMNmA1TEj2ciGZizATIQ/yUgKU/WAyxBf3oTQjkj5k/QxobmBDClo/hmCw35HleZCC0YBhHgMvkAYA"
    "Y2gj9YkAeNo9TtsNwjAMPOdBxQZswA+jsESqRshqSKOEgJiCsTpK18CkLbZOvjvLJxPWUtu00Ig1hBMIB+GJk8d/B1"
    "wFWjpwHHf/KJhbhkKu0Wx2J/g028DdHMdFMklkz7Ej3Xx/T4/3mYwIi5JcLn490XhNedi/IsGlTYXBPydZ/2jgfiTb"
    "aC35C4BDGMUQgGAAAAAAAAAAEAAAAQAAAACdAQAAAAAAACcAeNrTYUAFElA6H0r7QOlsRgjdD+U/h9LHoTQ7VF4dSn"
    "dDaQDBnARltwEAAAAAAAAEgAAAAADoAQAAAAAAAA=="
)
_MKSQUASHFS = shutil.which("mksquashfs")
needs_mksquashfs = pytest.mark.skipif(
    _MKSQUASHFS is None, reason="needs mksquashfs: install squashfs-tools"
)


def content(image: bytes) -> dict[str, tuple[EntryKind, str, bytes, bool]]:
    """Every name in the image, with what is behind it."""
    return {
        entry.path: (entry.kind, entry.target, b"".join(entry.content()), entry.executable)
        for entry in rootfs_squashfs.read_squashfs(io.BytesIO(image), LIMITS)
    }


def make_image(folder: Path, target: Path, *options: str) -> Path:
    assert _MKSQUASHFS
    subprocess.run(
        [_MKSQUASHFS, str(folder), str(target), "-quiet", "-no-progress", "-noappend", *options],
        check=True,
        capture_output=True,
    )
    return target


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_root(tmp_path_factory.mktemp("root") / "tiny", ["sh"])
    # More names than one table block holds, and files of many sizes around a block's.
    many = folder / "usr" / "many"
    many.mkdir()
    for number in range(700):
        (many / f"a-rather-long-name-for-a-file-{number}").write_bytes(b"%d" % number)
    for size in (0, 1, 4095, 4096, 4097, 8192, 131_071, 131_072, 131_073, 300_000):
        (folder / "usr" / f"size-{size}").write_bytes(random.Random(size).randbytes(size))
    with (folder / "usr" / "sparse").open("wb") as file:
        file.truncate(1_000_001)
        file.seek(500_000)
        file.write(b"middle")
    (folder / "usr" / "again").hardlink_to(folder / "usr" / "size-4097")
    return folder


def test_entries_when_an_image_is_read_then_everything_is_there() -> None:
    found = content(SMALL)
    assert found["usr"] == (EntryKind.FOLDER, "", b"", False)
    assert found["lib/link"] == (EntryKind.SYMLINK, "../usr/word", b"", False)
    assert {found["usr/word"], found["usr/again"]} == {
        (EntryKind.FILE, "", b"hello\n", False),
        (EntryKind.LINK, "usr/again", b"", False),
    }
    assert found["usr/bin/run"] == (EntryKind.FILE, "", b"#!/bin/sh\n", True)
    assert found["usr/empty"][2] == b""
    assert found["usr/sparse"][2] == bytes(300_000)
    assert {path for path, entry in found.items() if entry[0] is EntryKind.OTHER} == {
        "dev/null", "dev/pipe",
    }  # fmt: skip
    assert len(found) == 12


@needs_mksquashfs
@pytest.mark.parametrize(
    "options",
    [
        ("-comp", "gzip"), ("-comp", "xz", "-Xbcj", "x86"), ("-comp", "lzma"),
        ("-comp", "gzip", "-b", "4096"), ("-comp", "gzip", "-b", "1M"),
        ("-noI", "-noD", "-noF", "-noX"), ("-no-fragments",), ("-always-use-fragments",),
        ("-no-duplicates", "-no-exports"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_add_when_an_image_is_made_in_any_way_then_the_tree_is_the_folders(
    root: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    expected = open_store(tmp_path / "other").add(root, None, "", ignore_progress)
    image = make_image(root, tmp_path / "tiny.squashfs", *options)
    record = open_store(tmp_path / "data").add(image, None, "", ignore_progress)
    assert (record.kind, record.sha256) == ("squashfs", expected.sha256)
    kept = tmp_path / "data" / "sandbox-rootfs" / "tiny" / "image.squashfs"
    assert kept.read_bytes() == image.read_bytes()
    assert kept.stat().st_mode & 0o777 == 0o444
    assert open_store(tmp_path / "data").check("tiny", ignore_progress) == record
    kept.chmod(0o644)
    kept.write_bytes(b"hsqs")
    with pytest.raises(InvalidInput, match="image"):
        open_store(tmp_path / "data").check("tiny", ignore_progress)


@needs_mksquashfs
@pytest.mark.parametrize("packer", ["zstd", "lz4", "lzo"])
def test_add_when_packed_in_another_way_then_says_which_and_what_to_do(
    root: Path, tmp_path: Path, packer: str
) -> None:
    image = make_image(root / "bin", tmp_path / "image", "-comp", packer)
    with pytest.raises(InvalidInput, match=f"compressed with {packer}.*mksquashfs -comp xz"):
        open_store(tmp_path / "data").add(image, "x", "", ignore_progress)
    assert remaining_names(tmp_path / "data") == set()


def changed(at: int, layout: str, value: int) -> bytes:
    image = bytearray(SMALL)
    struct.pack_into(layout, image, at, value)
    return bytes(image)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (SMALL[:50], "no superblock"), (SMALL[:200], "beyond its end"), (b"hsqs", "no superblock"),
        (changed(12, "<I", 3), "block size is invalid"),
        (changed(12, "<I", 1 << 30), "block size is invalid"),
        (changed(20, "<H", 99), "method 99"), (changed(28, "<H", 3), "version 3.0"),
        (changed(32, "<Q", 0xFFFF), "too short"),
        (changed(32, "<Q", (1 << 63) + 5), "beyond its end"),
        (changed(64, "<Q", 1 << 40), "beyond its end"),
        (changed(72, "<Q", (1 << 64) - 1), "beyond its end"),
    ],
)  # fmt: skip
def test_entries_when_the_image_lies_about_itself_then_damaged(image: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        content(image)


def test_entries_when_any_byte_is_changed_then_read_or_refused_and_nothing_else() -> None:
    """Where its tables are packed, most changes break the packing; see the next test."""
    for at in range(len(SMALL)):
        image = bytearray(SMALL)
        image[at] ^= 0xFF
        read_or_refuse(bytes(image))


@needs_mksquashfs
def test_entries_when_unpacked_tables_are_changed_then_read_or_refused_and_nothing_else(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "folder"
    (folder / "a" / "b" / "c").mkdir(parents=True)
    for name in ("a/x", "a/b/y", "a/b/c/z"):
        (folder / name).write_text(name)
    (folder / "link").symlink_to("a/x")
    image = make_image(folder, tmp_path / "image", "-noI", "-noD", "-noF", "-noX", "-no-xattrs")
    whole = image.read_bytes()
    size = len(whole.rstrip(b"\0"))
    draws = random.Random(7)
    for at in range(size):
        for value in (0, 0xFF, draws.randrange(256)):
            broken = bytearray(whole)
            broken[at] = value
            read_or_refuse(bytes(broken))


def read_or_refuse(image: bytes) -> None:
    """As the store does: within bounds of names and bytes."""
    names = size = 0
    try:
        for entry in rootfs_squashfs.read_squashfs(io.BytesIO(image), LIMITS):
            names += 1
            if names > 200 or entry.size > MIB:
                return
            for piece in entry.content():
                size += len(piece)
                assert size <= 40 * MIB
    except InvalidInput:
        return


def test_add_when_a_file_claims_more_than_allowed_then_refused(tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(SMALL)
    with pytest.raises(InvalidInput, match="rootfs_mib"):
        open_store(tmp_path / "data", ArchiveLimits(100_000, 100)).add(
            tmp_path / "small", None, "", ignore_progress
        )
    with pytest.raises(InvalidInput, match="rootfs_files"):
        open_store(tmp_path / "data", ArchiveLimits(MIB, 5)).add(
            tmp_path / "small", None, "", ignore_progress
        )
    with pytest.raises(InvalidInput, match="neither /bin/sh"):
        open_store(tmp_path / "data").add(tmp_path / "small", None, "", ignore_progress)
    assert remaining_names(tmp_path / "data") == set()


def test_image_when_the_same_blocks_are_unpacked_without_end_then_damaged() -> None:
    image = squashfs_reader.SquashfsImage(io.BytesIO(SMALL), limit=100)
    with pytest.raises(InvalidInput, match="too often"):
        image.metadata(image.super.inodes, 0, 0)
