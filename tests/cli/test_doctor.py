"""`doctor`: each finding with its remedy; the exit status says whether serving would work."""

import json
import resource
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from msgspec import structs

from appliance.cli.commands import doctor
from appliance.cli.support import doctor_checks, hardware
from appliance.cli.support.doctor_checks import Finding, Grade
from appliance.config.settings import (
    ModelSettings,
    ProviderSettings,
    ProvidersSettings,
    ServerSettings,
    Settings,
)
from appliance.domain.execution import BackendStatus, Isolation, IsolationLevel
from appliance.domain.models import ModelFile
from appliance.plugins import LoadedPlugins
from appliance.spi import host
from appliance.spi.registry import PluginProblem, Registry
from tests.support.command_line import Command, command_line
from tests.support.gguf_files import write_gguf

CONFINED = BackendStatus(
    "bubblewrap",
    True,
    Isolation("bubblewrap", IsolationLevel.NAMESPACES, ("user", "pid", "net")),
    {"python": "3.11"},
)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Command]:
    async def probed(*_: object) -> tuple[list[PluginProblem], BackendStatus]:
        return [], CONFINED

    monkeypatch.setattr(doctor, "_try_plugins", probed)
    monkeypatch.setenv("PORT", str(_free_port()))
    with command_line(capsys, monkeypatch) as call:
        monkeypatch.setenv("PORT", str(_free_port()))
        yield call


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def by_name(report: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {finding["name"]: finding for finding in report["findings"]}


def model_file(path: Path, **changes: Any) -> ModelFile:
    plain = ModelFile("a", str(path), "", 1, "llama", 1, 256, "F32", "", True, 0.0)
    return structs.replace(plain, **changes)


def test_doctor_when_the_server_is_new_then_makes_nothing_and_serving_would_work(
    cli: Command, tmp_path: Path
) -> None:
    ended = cli("doctor", "--data-dir", str(tmp_path / "data"))
    assert ended.status == 0
    assert ended.out.endswith("\nServing would work.\n")
    assert "will be created" in ended.out
    assert not (tmp_path / "data").exists()


def test_doctor_when_asked_for_json_then_says_the_same(cli: Command, tmp_path: Path) -> None:
    ended = cli("doctor", "--json", "--data-dir", str(tmp_path / "data"))
    report = json.loads(ended.out)
    assert report["ok"] is True
    names = {"configuration", "plugins", "processor", "data directory", "port", "sandbox"}
    assert names | {"database", "model", "open files"} == set(by_name(report))
    assert all(f["remedy"] for f in report["findings"] if f["grade"] != "ok")


def test_doctor_when_a_server_exists_then_checks_its_database_and_model(
    cli: Command, tmp_path: Path
) -> None:
    data_dir = ("--data-dir", str(tmp_path / "data"))
    cli("model", "add", str(write_gguf(tmp_path / "tiny.gguf")), *data_dir)
    found = by_name(json.loads(cli("doctor", "--json", *data_dir).out))
    assert "passes its integrity check" in found["database"]["detail"]
    assert found["model"]["grade"] == "ok"
    assert "256 tokens of context" in found["model"]["detail"]


def test_doctor_when_the_configuration_is_wrong_then_is_a_finding(
    cli: Command, tmp_path: Path
) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[server]\nprot = 1\n")
    ended = cli("doctor", "--config", str(file), "--json")
    assert ended.status == 1
    assert f"{file}:2" in json.loads(ended.out)["findings"][0]["detail"]


def test_doctor_when_others_can_read_the_keys_in_the_configuration_then_warns(
    cli: Command, tmp_path: Path
) -> None:
    """F75"""
    file = tmp_path / "box.toml"
    file.write_text('[providers.openai]\napi_key = "hush"\n')
    file.chmod(0o644)
    ended = cli("doctor", "--config", str(file), "--data-dir", str(tmp_path / "box"), "--json")
    found = [each for each in json.loads(ended.out)["findings"] if each["grade"] == "warn"]
    assert any(each["remedy"] == f"run: chmod o-rwx {file}" for each in found)
    assert "hush" not in ended.out + ended.err


def test_doctor_when_the_port_is_taken_then_fails(
    cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv("PORT", str(other.getsockname()[1]))
        ended = cli("doctor", "--data-dir", str(tmp_path / "data"), "--json")
    assert ended.status == 1
    assert by_name(json.loads(ended.out))["port"]["grade"] == "fail"


def test_doctor_when_the_database_is_damaged_then_fails(cli: Command, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    (folder / "monkey-coder.db").write_bytes(b"not a database" * 100)
    ended = cli("doctor", "--data-dir", str(folder), "--json")
    assert ended.status == 1
    assert by_name(json.loads(ended.out))["database"]["grade"] == "fail"


def test_doctor_when_the_data_directory_is_open_to_others_then_fails_with_the_remedy(
    cli: Command, tmp_path: Path
) -> None:
    (tmp_path / "other").touch()
    tmp_path.chmod(0o755)
    ended = cli("doctor", "--data-dir", str(tmp_path))
    assert ended.status == 1
    assert f"chmod 700 {tmp_path}" in ended.out


def test_configuration_when_a_cloud_key_has_no_adapter_then_warns() -> None:
    settings = Settings(providers=ProvidersSettings(openai=ProviderSettings(api_key="hush")))
    findings = list(doctor_checks.configuration(settings, LoadedPlugins(Registry()), "x"))
    assert [finding.grade for finding in findings] == [Grade.OK, Grade.WARN]
    assert "openai" in findings[1].detail
    assert "hush" not in repr(findings)


def test_configuration_when_it_serves_beyond_this_machine_then_warns() -> None:
    settings = Settings(server=ServerSettings(host="0.0.0.0"))
    findings = list(doctor_checks.configuration(settings, LoadedPlugins(Registry()), "x"))
    assert "TLS" in findings[1].remedy


def test_plugins_when_one_is_broken_then_is_named_with_its_reason() -> None:
    loaded = LoadedPlugins(Registry(), (PluginProblem("cloud", "no licence"),))
    assert "cloud is broken: no licence" in list(doctor_checks.plugin_problems(loaded))[1].detail


def test_sandbox_when_missing_then_fails_and_when_degraded_warns() -> None:
    none = BackendStatus("none", False, problem="no namespaces", remedy="sysctl …")
    [finding] = doctor_checks.sandbox(none)
    assert finding == Finding("sandbox", Grade.FAIL, "no namespaces", "sysctl …")
    isolation = Isolation("bubblewrap", IsolationLevel.NAMESPACES, ("pid",), ("seccomp",))
    [finding] = doctor_checks.sandbox(BackendStatus("bubblewrap", True, isolation))
    assert finding.grade is Grade.WARN
    assert "seccomp" in finding.detail
    assert [each.grade for each in doctor_checks.sandbox(CONFINED)] == [Grade.OK]


def test_models_when_the_file_is_gone_or_the_name_unknown_then_fails(tmp_path: Path) -> None:
    gone = list(doctor_checks.models(Settings(), [model_file(tmp_path / "gone")]))
    named = Settings(models=ModelSettings(default="b"))
    unknown = list(doctor_checks.models(named, [model_file(tmp_path / "x")]))
    assert [each[0].grade for each in (gone, unknown)] == [Grade.FAIL, Grade.FAIL]
    assert next(doctor_checks.models(Settings(), [])).grade is Grade.WARN


@pytest.mark.parametrize(
    ("free", "grade"), [(10**9, Grade.OK), (100_000, Grade.WARN), (10_000, Grade.FAIL)]
)
def test_models_when_memory_is_short_then_says_how_much_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, grade: Grade
) -> None:
    # 128 bytes of cache per token: 0.5 MB for its 4096 tokens, 66 kB for the least of 512.
    path = write_gguf(tmp_path / "tiny.gguf", llama__context_length=4096)
    monkeypatch.setattr(host, "available_memory", lambda: free)
    [finding] = doctor_checks.models(Settings(), [model_file(path)])
    assert finding.grade is grade
    assert "525 kB of memory with 4096 tokens" in finding.detail
    assert bool(finding.remedy) is (grade is not Grade.OK)


def test_processor_when_there_is_no_avx2_then_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "cpu", lambda: hardware.Cpu("x86_64", 2, ("f16c",)))
    [finding] = doctor_checks.processor()
    assert finding.grade is Grade.WARN
    assert "AVX2" in finding.detail


def test_open_files_when_only_the_soft_limit_is_low_then_it_is_no_problem(
    cli: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for hard, grade in ((1 << 20, "ok"), (1024, "warn")):
        monkeypatch.setattr(resource, "getrlimit", Mock(return_value=(1024, hard)))
        report = json.loads(cli("doctor", "--json", "--data-dir", str(tmp_path / "data")).out)
        found = by_name(report)["open files"]
        assert found["grade"] == grade
        assert found["detail"].startswith("12288 at once" if grade == "ok" else "1024 at once")


@pytest.mark.parametrize(
    ("kind", "free", "grade"),
    [
        ("ext4", 10**12, Grade.OK),
        ("nfs4", 10**12, Grade.WARN),
        ("ext4", 10**9, Grade.WARN),
        ("ext4", 10**6, Grade.FAIL),
    ],
)
def test_data_directory_when_the_disk_is_unfit_then_says_so(
    monkeypatch: pytest.MonkeyPatch, kind: str, free: int, grade: Grade
) -> None:
    def system(_: Path) -> hardware.FileSystem:
        return hardware.FileSystem(kind, free)

    monkeypatch.setattr(hardware, "file_system", system)
    [finding] = doctor_checks.data_directory(Settings())
    assert finding.grade is grade


def test_host_when_asked_then_tells_something_real(tmp_path: Path) -> None:
    assert hardware.cpu().cores >= 1
    assert hardware.file_system(tmp_path / "not/there").free > 0
    assert hardware.file_system(Path("/proc")).kind == "proc"
