"""Available memory and usable CPUs: the smallest limit of machine and cgroups holds."""

import os
from pathlib import Path

import pytest

from appliance.spi import host


@pytest.fixture
def cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cgroup file system; `own` in it is /proc/self/cgroup."""
    monkeypatch.setattr(host, "_CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(host, "_OWN_CGROUPS", tmp_path / "own")
    (tmp_path / "own").write_text("0::/\n")
    return tmp_path


def _write(folder: Path, **files: object) -> None:
    """Files by name, with `__` for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def test_host_when_read_on_this_machine_then_at_least_one_cpu_and_some_memory():
    assert 1 <= host.usable_cpus() <= len(os.sched_getaffinity(0))
    assert host.available_memory() > 0


def test_host_when_nothing_is_known_then_one_cpu_and_no_memory(
    cgroups: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(host, "_MEMINFO", cgroups / "missing")
    assert host.available_memory() == 0
    assert host.usable_cpus() >= 1


def test_limits_when_no_cgroup_limits_then_the_machine_counts(
    cgroups: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(host, "_MEMINFO", cgroups / "meminfo")
    _write(cgroups, meminfo="MemTotal: 9 kB\nMemAvailable:   5 kB", memory__max="max")
    assert host.available_memory() == 5 * 1024


def test_limits_when_own_cgroup_sets_them_then_they_hold(cgroups: Path):
    _write(cgroups, cpu__max="150000 100000", memory__max=1_000_000, memory__current=400_000)
    assert host.usable_cpus() == 1
    assert host.available_memory() == 600_000


def test_limits_when_cgroups_are_nested_then_the_smallest_holds_and_page_cache_is_available(
    cgroups: Path,
):
    (cgroups / "own").write_text("0::/a/b\n")
    stat = "anon 5\ninactive_file 300\nactive_file 100\nfile 999"
    _write(cgroups / "a", memory__max=1000, memory__current=900, memory__stat=stat)
    _write(cgroups / "a/b", memory__max="max", memory__current=50, cpu__max="100000 100000")
    assert host.available_memory() == 1000 - 900 + 300 + 100
    assert host.usable_cpus() == 1


def test_limits_when_cgroups_are_of_version_1_then_they_hold(cgroups: Path):
    (cgroups / "own").write_text("4:memory:/x/y\n3:cpu,cpuacct:/x\n0::/\n")
    group = cgroups / "memory/x"
    _write(group, memory__limit_in_bytes=5000, memory__usage_in_bytes=4000)
    _write(group, memory__stat="total_inactive_file 500\ntotal_active_file 20\ninactive_file 7")
    _write(cgroups / "cpu/x", cpu__cfs_quota_us=100000, cpu__cfs_period_us=100000)
    assert host.available_memory() == 5000 - 4000 + 520
    assert host.usable_cpus() == 1


def test_limits_when_version_2_is_mounted_beside_version_1_then_it_is_found(cgroups: Path):
    (cgroups / "own").write_text("1:name=systemd:/\n0::/a\n")
    _write(cgroups / "unified/a", memory__max=700, memory__current=100)
    assert host.available_memory() == 600


def test_available_memory_when_a_cgroup_is_over_its_limit_then_none(cgroups: Path):
    _write(cgroups, memory__max=100, memory__current=400)
    assert host.available_memory() == 0
