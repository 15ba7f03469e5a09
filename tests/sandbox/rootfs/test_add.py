"""Root file systems: import from a folder or an archive, and the layout on disk."""

import hashlib
import os
import platform
import shutil
import tarfile
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from appliance.domain.rootfs import RootfsRecord
from appliance.errors import Conflict, InvalidInput, NotFound, SetupError
from appliance.sandbox.rootfs.store import default_name
from plugins._shared.rootfs import selection
from tests.support.rootfs import (
    LIMITS,
    add_file,
    ignore_progress,
    open_store,
    remaining_names,
    tar_of,
)


def tree_of(data: Path, name: str = "tiny") -> Path:
    return data / "sandbox-rootfs" / name / "tree"


@pytest.mark.parametrize("ending", ["", ".tar", ".tar.gz", ".tar.xz", ".tar.bz2"])
def test_add_when_a_folder_or_an_archive_then_the_same_tree_and_record(
    root: Path, data: Path, tmp_path: Path, ending: str
) -> None:
    from_folder = open_store(tmp_path / "other").add(root, None, "", ignore_progress)
    source = root if not ending else tar_of(root, tmp_path / f"tiny{ending}", lambda _: None)
    record = open_store(data).add(source, None, "", ignore_progress)
    assert record.name == "tiny"
    assert record.kind == ("tar" if ending else "directory")
    assert record.sha256 == from_folder.sha256
    assert (record.files, record.size) == (from_folder.files, from_folder.size)
    if ending:
        assert record.source_sha256 == hashlib.sha256(source.read_bytes()).hexdigest()
    assert record.machine == platform.machine()
    assert (record.shell, record.python) == ("/bin/sh", "")
    assert remaining_names(data) == {"tiny"}
    assert open_store(data).list() == [record]
    assert open_store(data).check("tiny", ignore_progress) == record


def test_add_when_done_then_it_is_read_only_and_open_to_the_users_of_runs(
    root: Path, data: Path
) -> None:
    open_store(data).add(root, None, "", ignore_progress)
    tree = tree_of(data)
    for path in (tree.parents[1], tree.parent, tree, *tree.rglob("*")):
        if path.is_symlink():
            continue
        mode = path.stat().st_mode
        readable = 0o005 if path.is_dir() else 0o004
        assert mode & readable == readable, path
        assert mode & (0o022 if path.is_dir() else 0o222) == 0 or path.name == "record.json"
    assert (tree / "bin" / "sh").stat().st_mode & 0o777 == 0o555
    assert (tree / "etc" / "os-release").stat().st_mode & 0o777 == 0o444
    assert (tree / "usr" / "absolute").readlink() == Path("/usr/share/word")


def test_add_when_files_have_several_names_then_they_share_their_content(
    root: Path, data: Path, tmp_path: Path
) -> None:
    linked = tmp_path / "linked"
    shutil.copytree(root, linked, symlinks=True)
    (linked / "bin" / "dash").hardlink_to(linked / "bin" / "sh")
    sizes = [open_store(data).add(linked, "folder", "", ignore_progress).size]
    archive = tar_of(linked, tmp_path / "linked.tar", lambda _: None)
    sizes.append(open_store(data).add(archive, "archive", "", ignore_progress).size)
    for name in ("folder", "archive"):
        tree = tree_of(data, name)
        assert (tree / "bin" / "sh").samefile(tree / "bin" / "dash")
    assert len(set(sizes)) == 1


def test_add_when_setuid_and_special_files_then_bits_are_gone_and_files_left_out(
    root: Path, data: Path, tmp_path: Path
) -> None:
    def change(archive: tarfile.TarFile) -> None:
        add_file(archive, "./usr/bin/su", b"\x7fELF", mode=0o6755)
        add_file(archive, "./etc/shadow", b"secret", mode=0o000)
        for name, kind in (("null", tarfile.CHRTYPE), ("sda", tarfile.BLKTYPE),
                           ("pipe", tarfile.FIFOTYPE)):  # fmt: skip
            info = tarfile.TarInfo(f"./dev/{name}")
            info.type, info.devmajor, info.devminor = kind, 1, 3
            archive.addfile(info)

    record = open_store(data).add(
        tar_of(root, tmp_path / "t.tar", change), None, "", ignore_progress
    )
    tree = tree_of(data, "t")
    assert (tree / "usr" / "bin" / "su").stat().st_mode & 0o7777 == 0o555
    assert (tree / "etc" / "shadow").stat().st_mode & 0o7777 == 0o444
    assert record.left_out == 3
    assert not (tree / "dev").exists()


def test_add_when_a_folder_holds_pipes_and_sockets_then_they_are_left_out(
    root: Path, data: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, symlinks=True)
    os.mkfifo(copy / "usr" / "pipe")
    record = open_store(data).add(copy, None, "", ignore_progress)
    assert record.left_out == 1
    assert not (tree_of(data, "copy") / "usr" / "pipe").exists()


def test_add_when_the_folder_holds_the_data_directory_then_that_is_left_out(
    root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, symlinks=True)
    data = copy / "data"
    open_store(data).add(copy, "first", "", ignore_progress)
    open_store(data).add(copy, "second", "", ignore_progress)
    assert not (tree_of(data, "second") / "data" / "sandbox-rootfs").exists()


def test_add_when_the_name_is_taken_then_refused_and_the_first_stays(
    root: Path, data: Path
) -> None:
    first = open_store(data).add(root, None, "", ignore_progress)
    with pytest.raises(Conflict, match="already"):
        open_store(data).add(root, None, "", ignore_progress)
    assert open_store(data).get("tiny") == first


@pytest.mark.parametrize("name", ["", "..", ".x", "A", "a/b", "x" * 65, "a b", "-a"])
def test_add_when_the_name_is_none_then_refused(root: Path, data: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="no valid name"):
        open_store(data).add(root, name, "", ignore_progress)
    with pytest.raises(NotFound):
        open_store(data).get(name)
    assert remaining_names(data) == set()


@pytest.mark.parametrize(
    ("file", "name"),
    [("Node 22.tar.xz", "node-22"), ("a.squashfs", "a"), ("...", "root"), ("x" * 90, "x" * 64),
     ("rust.1.tgz", "rust.1")],
)  # fmt: skip
def test_default_name_when_from_a_file_then_a_plain_one(file: str, name: str) -> None:
    assert default_name(Path("/somewhere", file)) == name


def test_add_when_the_sha256_is_another_then_nothing_is_added(
    root: Path, data: Path, tmp_path: Path
) -> None:
    archive = tar_of(root, tmp_path / "t.tar", lambda _: None)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    for wrong, reason in (("0" * 64, "not the expected one"), ("abc", "64 hexadecimal")):
        with pytest.raises(InvalidInput, match=reason):
            open_store(data).add(archive, None, wrong, ignore_progress)
    with pytest.raises(InvalidInput, match="folder"):
        open_store(data).add(root, None, digest, ignore_progress)
    assert remaining_names(data) == set()
    assert (
        open_store(data).add(archive, None, digest.upper(), ignore_progress).source_sha256 == digest
    )


def test_check_when_a_file_changed_then_says_so(root: Path, data: Path) -> None:
    open_store(data).add(root, None, "", ignore_progress)
    word = tree_of(data) / "usr" / "share" / "word"
    word.chmod(0o644)
    word.write_text("another word\n")
    with pytest.raises(InvalidInput, match="has changed since it was added"):
        open_store(data).check("tiny", ignore_progress)
    shutil.rmtree(tree_of(data))
    with pytest.raises(InvalidInput, match="has lost its files"):
        open_store(data).check("tiny", ignore_progress)
    with pytest.raises(NotFound):
        open_store(data).check("other", ignore_progress)


def test_remove_when_there_then_gone_and_unknown_after(root: Path, data: Path) -> None:
    open_store(data).add(root, None, "", ignore_progress)
    open_store(data).remove("tiny")
    assert remaining_names(data) == set()
    with pytest.raises(NotFound):
        open_store(data).remove("tiny")


def test_record_when_damaged_then_named(root: Path, data: Path) -> None:
    open_store(data).add(root, None, "", ignore_progress)
    record = data / "sandbox-rootfs" / "tiny" / "record.json"
    record.write_text("{")
    with pytest.raises(SetupError, match="tiny"):
        open_store(data).get("tiny")
    with pytest.raises(Exception, match="tiny"):
        selection.find_root(data / "sandbox-rootfs", "tiny")
    open_store(data).remove("tiny")
    assert remaining_names(data) == set()


def test_list_when_something_else_lies_there_then_it_is_left_alone(root: Path, data: Path) -> None:
    record = open_store(data).add(root, None, "", ignore_progress)
    home = data / "sandbox-rootfs"
    (home / "notes").mkdir()
    (home / "Upper").mkdir()
    (home / "file").write_text("x")
    assert open_store(data).list() == [record]
    with pytest.raises(NotFound):
        open_store(data).get("notes")
    with pytest.raises(NotFound, match="rootfs list"):
        open_store(data).remove("file")


def test_find_when_the_record_is_for_another_machine_then_unavailable_with_the_remedy(
    root: Path, data: Path
) -> None:
    record = open_store(data, LIMITS).add(root, None, "", ignore_progress)
    other: RootfsRecord = structs.replace(record, machine="vax")
    home = data / "sandbox-rootfs"
    found = selection.find_root(home, "tiny")
    assert (found.path, found.image, found.sha256) == (tree_of(data), None, record.sha256)
    (home / "tiny" / "record.json").write_bytes(msgspec.json.encode(other))
    with pytest.raises(Exception, match="is for vax"):
        selection.find_root(home, "tiny")
    for name in ("other", "../tiny", ""):
        with pytest.raises(Exception, match="is not a root file system"):
            selection.find_root(home, name)
