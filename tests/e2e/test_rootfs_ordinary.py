"""Root file systems on the server of an ordinary user: added and used without privileges."""

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.escape_server import TemporaryHome, prepare
from tests.support.rootfs import add_file, copy_libraries_of_python, make_root, member, tar_of
from tests.support.server_process import ServerProcess, clean_env

_UID = 64_996
_PROGRAMS = ("sh", "bash", "cat", "ls", "id", "stat", "readlink")
_NOT_PACKED = ("-noI", "-noD", "-noF", "-noX")
_MKSQUASHFS = shutil.which("mksquashfs")

Record = dict[str, Any]


class Owner:
    """The ordinary user of the server: the tests' own or another."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.uid = _UID if os.geteuid() == 0 else None
        self.server = prepare(home, self.uid)

    def call(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a command as this user."""
        argv = [*self.server.program, *words, "--data-dir", str(self.server.data_dir)]
        env = clean_env(self.server.env)
        return subprocess.run(
            argv, env=env, capture_output=True, text=True, timeout=120, check=False
        )

    def add(self, source: Path, name: str) -> Record:
        done = self.call("sandbox", "rootfs", "add", str(source), "--name", name, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, *words: str) -> str:
        done = self.call("sandbox", "rootfs", *words)
        assert done.returncode == 1, done.stdout
        assert "Traceback" not in done.stderr
        return done.stderr

    @property
    def roots(self) -> Path:
        return self.server.data_dir / "sandbox-rootfs"


@pytest.fixture(scope="module")
def owner() -> Generator[Owner, None, None]:
    with TemporaryHome() as home:
        owner = Owner(home)
        folder = make_root(home / "tiny", _PROGRAMS)
        python = next((owner.server.data_dir / "sandbox-python").iterdir())
        copy_libraries_of_python(python, folder)
        yield owner


@pytest.fixture(scope="module")
def folder(owner: Owner) -> Path:
    return owner.home / "tiny"


@pytest.fixture(scope="module")
def added(owner: Owner, folder: Path) -> Record:
    return owner.add(folder, "plain")


def hostile(archive: tarfile.TarFile) -> None:
    """Owners, rights and devices, as only root could unpack them."""
    add_file(archive, "./usr/bin/su", b"\x7fELF", mode=0o6755)
    add_file(archive, "./etc/shadow", b"secret", mode=0o000)
    archive.addfile(member("./dev", tarfile.DIRTYPE, mode=0o700, uid=0))
    archive.addfile(member("./dev/null", tarfile.CHRTYPE, devmajor=1, devminor=3, uid=0))
    archive.addfile(member("./dev/sda", tarfile.BLKTYPE, devmajor=8, uid=0, mode=0o666))


def test_add_when_a_folder_of_somebody_else_then_all_of_it_belongs_to_the_one_who_adds(
    owner: Owner, added: Record
) -> None:
    assert added["kind"] == "directory"
    user = os.geteuid() if owner.uid is None else owner.uid
    owners = {path.lstat().st_uid for path in (owner.roots / "plain").rglob("*")}
    assert owners == {user}
    assert added in json.loads(owner.call("sandbox", "rootfs", "list", "--json").stdout)


def test_add_when_an_archive_holds_what_only_root_may_make_then_left_out_and_counted(
    owner: Owner, folder: Path
) -> None:
    archive = tar_of(folder, owner.home / "tiny.tar.gz", hostile)
    record = owner.add(archive, "archive")
    tree = owner.roots / "archive" / "tree"
    assert record["left_out"] == 2
    assert list((tree / "dev").iterdir()) == []
    assert (tree / "usr/bin/su").stat().st_mode & 0o7777 == 0o555
    assert (tree / "etc/shadow").stat().st_mode & 0o7777 == 0o444
    output = owner.call("sandbox", "rootfs", "check", "archive").stdout
    assert "2 device nodes, pipes and sockets" in output


@pytest.mark.skipif(_MKSQUASHFS is None, reason="needs mksquashfs: install squashfs-tools")
def test_add_when_an_image_then_the_same_tree_as_of_the_folder(
    owner: Owner, folder: Path, added: Record
) -> None:
    assert _MKSQUASHFS
    image = owner.home / "tiny.squashfs"
    subprocess.run(
        [_MKSQUASHFS, str(folder), str(image), "-quiet", "-no-progress", *_NOT_PACKED],
        check=True,
        capture_output=True,
    )
    assert owner.add(image, "image")["sha256"] == added["sha256"]


def test_add_when_a_file_can_not_be_read_then_it_is_named_and_nothing_added(
    owner: Owner, folder: Path
) -> None:
    closed = owner.home / "closed"
    shutil.copytree(folder, closed, symlinks=True)
    (closed / "etc" / "shadow").touch(mode=0o000)
    assert "etc/shadow': Permission denied; nothing was added" in owner.refused("add", str(closed))
    (closed / "etc").chmod(0)
    (closed / "usr" / "share").chmod(0)
    assert "'etc': Permission denied" in owner.refused("add", str(closed))
    (closed / "etc").chmod(0o755)
    (closed / "etc" / "shadow").unlink()
    assert "'usr/share': Permission denied" in owner.refused("add", str(closed))
    (closed / "usr" / "share").chmod(0o755)
    assert not (owner.roots / "closed").exists()


def test_add_when_the_folder_of_roots_is_somebody_elses_then_says_so(
    owner: Owner, folder: Path, added: Record
) -> None:
    owner.roots.chmod(0o555)
    try:
        assert "Permission denied" in owner.refused("add", str(folder), "--name", "other")
        assert "Permission denied" in owner.refused("remove", "plain")
    finally:
        owner.roots.chmod(0o755)
    assert added in json.loads(owner.call("sandbox", "rootfs", "list", "--json").stdout)


def test_list_when_the_folder_of_roots_is_closed_then_says_so(owner: Owner, added: Record) -> None:
    owner.roots.chmod(0)
    try:
        assert "can't be read" in owner.refused("list")
        assert "can't be read" in owner.refused("check", added["name"])
    finally:
        owner.roots.chmod(0o755)


# Runs


@pytest.fixture(scope="module")
def client(owner: Owner, added: Record) -> Generator[httpx.Client, None, None]:
    chosen = {
        "MONKEY_CODER__SANDBOX__ROOTFS": added["name"],
        "MONKEY_CODER__SANDBOX__LANGUAGES": "*",
    }
    server = ServerProcess(
        owner.server.data_dir, {**owner.server.env, **chosen}, owner.server.program
    )
    try:
        with server.start().client() as client:
            offer = client.get("/api/v1/sandbox/languages?wait=true").json()
            if not offer["available"]:
                pytest.skip(f"needs sandbox: {offer['problem']}")
            yield client
    finally:
        server.stop()


def run(client: httpx.Client, *argv: str) -> dict[str, Any]:
    answer = client.post("/api/v1/sandbox/run", json={"argv": argv})
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_languages_when_the_server_has_a_root_then_those_of_the_root_were_found_at_start(
    client: httpx.Client,
) -> None:
    offer = client.get("/api/v1/sandbox/languages?wait=true").json()
    assert {language["name"] for language in offer["languages"]} == {"python", "sh", "bash"}


def test_run_when_the_server_has_a_root_then_sees_that_and_can_not_change_it(
    client: httpx.Client,
) -> None:
    script = "cat /usr/share/word; ls /usr/bin; (echo x > /usr/share/word) 2>&1; id -u"
    result = run(client, "sh", "-c", script)
    assert result["stdout"].startswith("from the root\nwords\n")
    assert "Read-only file system" in result["stdout"] or "denied" in result["stdout"]
    assert result["stdout"].endswith("\n1000\n")
    python = run(client, "python", "-c", "import sys; print(sys.executable, 6 * 7)")
    assert python["stdout"] == "/opt/python/bin/python 42\n"


def test_remove_when_the_setting_names_it_then_refused_and_runs_go_on(
    owner: Owner, client: httpx.Client, folder: Path
) -> None:
    running = {**owner.server.env, "MONKEY_CODER__SANDBOX__ROOTFS": "plain"}
    before = owner.server.env
    owner.server.env = running
    try:
        assert "sandbox.rootfs names it" in owner.refused("remove", "plain")
    finally:
        owner.server.env = before
    assert run(client, "sh", "-c", "cat /usr/share/word")["stdout"] == "from the root\n"
    owner.add(folder, "beside")  # while runs see another one
    assert owner.call("sandbox", "rootfs", "remove", "beside").returncode == 0
    assert run(client, "sh", "-c", "cat /usr/share/word")["stdout"] == "from the root\n"
