"""Archives that a hostile sandbox sends are refused; edits of an archive keep the rest."""

from pathlib import Path

import pytest

from appliance.sandbox.sessions import archive_edit, archive_index
from appliance.sandbox.sessions.archive_edit import FileAppender, NewFile
from appliance.spi import workspace_archive as archive

FILE = archive.FILE.pack(0o644, 0, 4)


def file(path: bytes, *contents: tuple[int, bytes]) -> bytes:
    chunks = [archive.frame(b"C", archive.CONTENT.pack(at) + data) for at, data in contents]
    return archive.frame(b"F", FILE + path) + b"".join(chunks)


@pytest.mark.parametrize(
    "data",
    [
        file(b"../x"),
        file(b"/etc/passwd"),
        file(b"a/../../x"),
        file(b"a//b"),
        file(b""),
        file(b"a\0b"),
        file(b"\xff"),
        file(b"x" * 256),
        file(b"/".join([b"x" * 200] * 6)),
        file(b"a", (0, b"12345")),
        file(b"a", (0, b"12"), (1, b"12")),
        file(b"a", (2**63, b"1")),
        file(b"a", (0, b"")),
        archive.frame(b"D", archive.FOLDER.pack(0, 0) + b"a") + file(b"b")[-4:],
        archive.frame(b"C", archive.CONTENT.pack(0) + b"1"),
        archive.frame(b"C", b"1"),
        archive.link_frame(b"H", b"a", b"nothing"),
        archive.link_frame(b"L", b"l", b"/") + archive.link_frame(b"H", b"a", b"l"),
        archive.frame(b"L", b"\xff\xff"),
        archive.frame(b"F", b"short"),
        archive.frame(b"?", b"x"),
        archive.HEADER.pack(b"F", 2**31) + b"x",
        file(b"a", (0, b"1234"))[:-1],
        b"".join(file(b"%d" % n) for n in range(9)),
        b"\0" * 100,
    ],
)
def test_archive_when_malformed_then_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "archive"
    path.write_bytes(data)

    with pytest.raises(ValueError, match=r"archive|place"):
        archive_index.read_index(path, len(data), 8)


def test_archive_when_files_are_replaced_then_compacting_keeps_what_counts(tmp_path: Path) -> None:
    path, target = tmp_path / "archive", tmp_path / "compact"
    first = file(b"a", (0, b"aaaa")) + archive.link_frame(b"H", b"b", b"a")
    path.write_bytes(first + file(b"c", (0, b"cc")) + b"left by a crash")
    size = len(first + file(b"c", (0, b"cc")))
    for name, content in (("c", b"new c"), ("a", b"x" * 100_000), ("d/e", b"")):
        index = archive_index.read_index(path, size, 9)
        appender = FileAppender(
            path, size, NewFile(name), archive_edit.missing_parents(index, name), 100_000
        )
        appender.write(content)
        size = appender.finish()
        appender.close()

    index = archive_index.read_index(path, size, 9)
    compact = archive_edit.compact(path, size, index, target)

    assert compact < size
    for source_path, end in ((path, size), (target, compact)):
        found = archive_index.read_index(source_path, end, 9)
        with source_path.open("rb") as source:
            contents = {
                name: b"".join(archive_index.read_content(source, entry, end))
                for name, entry in found.entries.items()
                if entry.kind is archive_index.EntryKind.FILE
            }
        assert contents == {"a": b"x" * 100_000, "b": b"aaaa", "c": b"new c", "d/e": b""}
        assert found.content_bytes == 4096 + 4096 + 25 * 4096
        assert [name for name, _ in found.children("d")] == ["e"]
