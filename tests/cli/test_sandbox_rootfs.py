"""`monkey-coder sandbox rootfs`, run as a user types it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_line import command_line
from tests.support.rootfs import make_root, remaining_names, tar_of


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    return tar_of(make_root(folder / "tiny", ["sh"]), folder / "tiny.tar.gz", lambda _: None)


Shell = Callable[..., tuple[int, str, str]]


@pytest.fixture
def shell(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    for name in ("DATABASE_URL", "JWT_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)

    def call(*argv: str) -> tuple[int, str, str]:
        with command_line(capsys, monkeypatch) as run:
            ended = run("sandbox", "rootfs", *argv, "--data-dir", str(tmp_path / "data"))
        return ended.status, ended.out, ended.err

    return call


def test_add_list_check_remove_when_in_that_order_then_each_tells_its_result(
    shell: Shell, archive: Path, tmp_path: Path
) -> None:
    assert shell("list")[1].startswith("No root file systems")
    status, out, _ = shell("add", str(archive), "--name", "small")
    assert status == 0
    assert 'rootfs = "small"' in out
    assert "glibc" in out
    [record] = json.loads(shell("list", "--json")[1])
    assert (record["name"], record["kind"], record["left_out"]) == ("small", "tar", 0)
    assert shell("list")[1].split()[:2] == ["small", "tar"]
    assert shell("check", "small")[1].endswith("Every file is as it was added.\n")
    assert json.loads(shell("check", "small", "--json")[1]) == record
    status, _, err = shell("add", str(archive), "--name", "small")
    assert (status, "already" in err) == (1, True)
    assert shell("remove", "small") == (0, "Removed small.\n", "")
    assert remaining_names(tmp_path / "data") == set()
    assert shell("remove", "small")[0] == 1


def test_add_when_asked_for_json_then_prints_the_record_alone(shell: Shell, archive: Path) -> None:
    record = json.loads(shell("add", str(archive), "--json")[1])
    assert record["name"] == "tiny"
    assert json.loads(shell("list", "--json")[1]) == [record]


def test_remove_when_the_setting_names_it_then_refused(
    shell: Shell, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shell("add", str(archive))[0] == 0
    monkeypatch.setenv("MONKEY_CODER__SANDBOX__ROOTFS", "tiny")
    assert shell("list")[1].startswith("* tiny")
    status, _, err = shell("remove", "tiny")
    assert status == 1
    assert "sandbox.rootfs names it" in err
    assert shell("check", "tiny")[0] == 0


def test_add_when_it_is_no_root_then_one_line_of_why_and_nothing_left(
    shell: Shell, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("hello")
    status, out, err = shell("add", str(tmp_path / "file"))
    assert (status, out) == (1, "")
    assert "neither a squashfs image nor a tar archive nor a folder" in err
    assert "Traceback" not in err
    assert remaining_names(tmp_path / "data") == set()
    assert shell("add", str(tmp_path / "missing"))[0] == 2
