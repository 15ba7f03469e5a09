"""Hostile archives and images are refused as a whole; nothing is written outside."""

import gzip
import io
import lzma
import os
import resource
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.errors import InvalidInput, SetupError
from appliance.sandbox.rootfs.formats.entries import ArchiveLimits
from tests.support.rootfs import (
    MIB,
    add_file,
    ignore_progress,
    make_root,
    member,
    open_store,
    remaining_names,
    tar_of,
)

Change = Callable[[tarfile.TarFile], None]
# As much as the process may take while it reads what would unpack to far more.
_LITTLE = 48 * MIB


def files(*names: str) -> Change:
    def change(archive: tarfile.TarFile) -> None:
        for name in names:
            add_file(archive, name)

    return change


def link(name: str, target: str, *then: str, kind: bytes = tarfile.SYMTYPE) -> Change:
    def change(archive: tarfile.TarFile) -> None:
        archive.addfile(member(name, kind, linkname=target))
        for path in then:
            add_file(archive, path)

    return change


def hard(name: str, target: str) -> Change:
    return link(name, target, kind=tarfile.LNKTYPE)


ATTACKS: dict[str, tuple[Change, str]] = {
    "an absolute name": (files("/tmp/rootfs-was-here"), "outside the root"),
    "two points": (files("../rootfs-was-here"), "outside the root"),
    "two points in the middle": (files("usr/../../rootfs-was-here"), "outside the root"),
    "a link out": (link("out", "../../etc"), "outside the root"),
    "a link out, deep": (link("usr/bin/out", "../../../etc"), "outside the root"),
    "a link out and back": (link("usr/out", "../../x/usr"), "outside the root"),
    "a link to nothing": (link("usr/out", ""), "no valid target"),
    "a file through a link": (link("away", "/tmp", "away/x"), "goes through a link"),
    "a file through a link inside": (link("b", "usr", "b/x"), "goes through a link"),
    "a file through a file": (files("usr/f", "usr/f/x"), "goes through"),
    "a file over a link": (link("usr/l", "/etc/passwd", "usr/l"), "comes twice"),
    "a file twice": (files("usr/f", "usr/f"), "comes twice"),
    "a folder over a link": (
        lambda archive: (
            link("usr/l", "/tmp")(archive),
            archive.addfile(member("usr/l", tarfile.DIRTYPE)),
        )[0],
        "a folder and something else",
    ),
    "a hard link out": (hard("usr/h", "/etc/passwd"), "outside the root"),
    "a hard link up": (hard("usr/h", "../../etc/passwd"), "outside the root"),
    "a hard link to what is not there": (hard("usr/h", "usr/nothing"), "no file before it"),
    "a hard link to a folder": (hard("usr/h", "usr"), "no file before it"),
    "a hard link to the root": (hard("usr/h", "."), "no file before it"),
    "a hard link through a link": (
        lambda archive: (link("to", "/etc")(archive), hard("usr/h", "to/passwd")(archive))[0],
        "no file before it",
    ),
    "a hard link to a link": (
        lambda archive: (link("to", "/etc/passwd")(archive), hard("usr/h", "to")(archive))[0],
        "no file before it",
    ),
    "a long name": (files("usr/" + "x" * 300), "longer than 255"),
    "a long path": (files("/".join(["usr"] + ["y" * 200] * 25)), "no valid path"),
    "a deep path": (files("usr/" + "d/" * 200 + "x"), "no valid path"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_add_when_an_archive_leads_astray_then_refused_whole(
    root: Path, data: Path, tmp_path: Path, attack: str
) -> None:
    change, reason = ATTACKS[attack]
    with pytest.raises(InvalidInput, match=reason):
        open_store(data).add(tar_of(root, tmp_path / "t.tar", change), None, "", ignore_progress)
    assert remaining_names(data) == set()
    assert not Path("/tmp/rootfs-was-here").exists()
    assert not list(tmp_path.rglob("rootfs-was-here"))


def test_add_when_a_link_only_dangles_inside_then_it_is_kept(
    root: Path, data: Path, tmp_path: Path
) -> None:
    archive = tar_of(root, tmp_path / "t.tar", link("etc/mtab", "/proc/mounts"))
    open_store(data).add(archive, None, "", ignore_progress)
    kept = data / "sandbox-rootfs" / "t" / "tree" / "etc" / "mtab"
    assert kept.readlink() == Path("/proc/mounts")


def test_add_when_a_name_is_no_utf8_then_it_is_kept_as_it_is(
    root: Path, data: Path, tmp_path: Path
) -> None:
    archive = tar_of(root, tmp_path / "t.tar", files("usr/caf\udce9 \x1b[31m\nx"))
    open_store(data).add(archive, None, "", ignore_progress)
    names = {path.name for path in (data / "sandbox-rootfs" / "t" / "tree" / "usr").iterdir()}
    assert "caf\udce9 \x1b[31m\nx" in names


def test_add_when_a_wrong_name_would_act_on_a_terminal_then_it_is_shown_harmless(
    root: Path, data: Path, tmp_path: Path
) -> None:
    archive = tar_of(root, tmp_path / "t.tar", files("../\x1b[2J\n"))
    with pytest.raises(InvalidInput) as caught:
        open_store(data).add(archive, None, "", ignore_progress)
    assert caught.value.message.isprintable()


def damaged(content: bytes) -> dict[str, bytes]:
    """A good archive that was cut or changed."""
    packed = gzip.compress(content, 1)
    return {
        "cut in a file": content[: len(content) // 2],
        "cut at its end": content[:-10240].rstrip(b"\0") + b"\0" * 100,
        "packed and cut": packed[: len(packed) // 2],
        "packed, without its end": packed[:-8],
        "packed and changed": packed[:5000] + bytes(64) + packed[5064:],
        "xz and cut": lzma.compress(content, preset=0)[:-40],
        "xz of nothing": lzma.compress(b""),
        "gzip of noise": gzip.compress(os.urandom(5000)),
        "a header that is wrong": content.replace(b"./bin/sh\0", b"./bin/\xff\xff\0"),
    }


@pytest.mark.parametrize("how", list(damaged(b"x" * 20000)))
def test_add_when_an_archive_is_damaged_then_says_so(
    root: Path, data: Path, tmp_path: Path, how: str
) -> None:
    good = tar_of(root, tmp_path / "good.tar", lambda _: None).read_bytes()
    broken = tmp_path / "broken.tar"
    broken.write_bytes(damaged(good)[how])
    with pytest.raises(InvalidInput, match="damaged"):
        open_store(data).add(broken, None, "", ignore_progress)
    assert remaining_names(data) == set()


def test_add_when_it_is_cut_between_two_files_then_says_so(
    root: Path, data: Path, tmp_path: Path
) -> None:
    archive = tar_of(root, tmp_path / "t.tar", lambda _: None)
    with tarfile.open(archive) as opened:
        last = opened.getmembers()[-1]
    archive.write_bytes(archive.read_bytes()[: last.offset])
    with pytest.raises(InvalidInput, match="unexpected end"):
        open_store(data).add(archive, None, "", ignore_progress)


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"\0" * 4096, b"\x7fELF" + bytes(600), b"PK\3\4"]
)
def test_add_when_it_is_no_archive_then_says_what_it_takes(
    data: Path, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(InvalidInput, match="neither a squashfs image nor a tar archive"):
        open_store(data).add(file, None, "", ignore_progress)
    assert remaining_names(data) == set()


def test_add_when_it_is_no_plain_file_then_refused_without_waiting(
    data: Path, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="neither a file nor a folder"):
        open_store(data).add(tmp_path / "pipe", None, "", ignore_progress)
    with pytest.raises(SetupError, match="No such file"):
        open_store(data).add(tmp_path / "missing", None, "", ignore_progress)


def test_add_when_packed_with_zstd_then_says_how_to_go_on(data: Path, tmp_path: Path) -> None:
    (tmp_path / "t.tar.zst").write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    with pytest.raises(InvalidInput, match="decompress the archive first"):
        open_store(data).add(tmp_path / "t.tar.zst", None, "", ignore_progress)


# More than it seems


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    return member(name, kind, size=size).tobuf(tarfile.GNU_FORMAT)


def pack(start: bytes, zeros: int, ending: str) -> bytes:
    """Packed without ever holding it whole."""
    piece = bytes(MIB)
    if ending == "xz":
        packer = lzma.LZMACompressor(preset=0)
        out = [packer.compress(start), *(packer.compress(piece) for _ in range(zeros // MIB))]
        return b"".join([*out, packer.flush()])
    target = io.BytesIO()
    with gzip.GzipFile(fileobj=target, mode="wb", compresslevel=1) as file:
        file.write(start)
        for _ in range(zeros // MIB):
            file.write(piece)
    return target.getvalue()


BOMBS = {
    "a huge file": (header("usr/x", 1 << 40), "rootfs_mib"),
    "a file larger than the numbers of tar": (header("usr/x", (1 << 62)), "rootfs_mib"),
    "a huge name": (
        header("././@LongLink", 80 * MIB, tarfile.GNUTYPE_LONGNAME),
        "header larger than",
    ),
    "a huge extended header": (header("x", 80 * MIB, tarfile.XHDTYPE), "header larger than"),
    "a huge global header": (header("x", 80 * MIB, tarfile.XGLTYPE), "header larger than"),
    "a gap": (header("x", 1 << 40, b"V"), "rootfs_mib"),
}


@pytest.mark.parametrize(
    ("bomb", "ending"), [*((name, "gz") for name in BOMBS), ("a huge name", "xz")]
)
def test_add_when_an_archive_unpacks_to_far_more_then_stopped_early(
    data: Path, tmp_path: Path, bomb: str, ending: str
) -> None:
    start, reason = BOMBS[bomb]
    file = tmp_path / f"bomb.tar.{ending}"
    file.write_bytes(pack(start, 80 * MIB, ending))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InvalidInput, match=reason):
        open_store(data).add(file, None, "", ignore_progress)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < _LITTLE
    assert remaining_names(data) == set()


def test_add_when_a_sparse_file_claims_more_than_allowed_then_refused(
    root: Path, data: Path, tmp_path: Path
) -> None:
    def change(archive: tarfile.TarFile) -> None:
        info = member("usr/sparse", size=0, pax_headers={
            "GNU.sparse.major": "1", "GNU.sparse.minor": "0",
            "GNU.sparse.name": "usr/sparse", "GNU.sparse.realsize": str(1 << 50)})  # fmt: skip
        content = b"0\n" + bytes(510)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))

    with pytest.raises(InvalidInput, match="rootfs_mib"):
        open_store(data).add(tar_of(root, tmp_path / "t.tar", change), None, "", ignore_progress)


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, b"Z"])
def test_add_when_there_are_very_many_names_then_stopped_at_the_bound(
    data: Path, tmp_path: Path, kind: bytes
) -> None:
    file = tmp_path / "many.tar.gz"
    with gzip.open(file, "wb", compresslevel=1) as packed:
        for number in range(3_000):
            packed.write(header(f"usr/{number}", 0, kind))
    with pytest.raises(InvalidInput, match="rootfs_files"):
        open_store(data, ArchiveLimits(64 * MIB, 500)).add(file, None, "", ignore_progress)
    assert remaining_names(data) == set()


def test_add_when_folders_are_made_by_deep_names_then_they_count(
    data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "deep.tar"
    with tarfile.open(file, "w") as archive:
        for number in range(50):
            add_file(archive, f"{number}/" + "d/" * 90 + "x")
    with pytest.raises(InvalidInput, match="rootfs_files"):
        open_store(data).add(file, None, "", ignore_progress)


def test_add_when_headers_are_nested_without_end_then_damaged(data: Path, tmp_path: Path) -> None:
    long = header("././@LongLink", 1, tarfile.GNUTYPE_LONGNAME) + b"x" + bytes(511)
    (tmp_path / "t.tar").write_bytes(long * 5000)
    with pytest.raises(InvalidInput, match="damaged"):
        open_store(data).add(tmp_path / "t.tar", None, "", ignore_progress)


def test_add_when_a_folder_is_exchanged_for_a_link_meanwhile_then_it_is_not_followed(
    root: Path, data: Path, tmp_path: Path
) -> None:
    copy = make_root(tmp_path / "copy")
    (copy / "usr" / "zone").mkdir()
    (copy / "usr" / "zone" / "file").write_text("x")
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("secret")

    def exchange(step: str, _done: int, _total: int | None) -> None:
        if step == "unpacking" and not (copy / "usr" / "zone").is_symlink():
            (copy / "usr" / "zone").rename(tmp_path / "was")
            (copy / "usr" / "zone").symlink_to(secret)

    try:
        open_store(data).add(copy, None, "", exchange)
    except (InvalidInput, SetupError):
        assert remaining_names(data) == set()
    else:
        tree = data / "sandbox-rootfs" / "copy" / "tree"
        assert "secret" not in {
            path.read_text()
            for path in tree.rglob("file")
            if not path.is_symlink() and path.is_file()
        }
