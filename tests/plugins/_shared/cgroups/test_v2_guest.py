"""Control groups of version 2 under systemd's delegation, in a guest with a kernel of its own.

On most machines the controllers are in use by one version, so that the other can't be tested;
in a machine emulated by QEMU they are free. The slow tests need a longer run of the guest.
"""

import tempfile
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.execution import MIB
from plugins._shared.cgroups.base import OWN_MEMORY, OWN_PROCESSES
from tests.support import delegation_guest, microvm

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = [
    microvm.needs_microvm,
    pytest.mark.timeout(480),  # the first test waits for the whole guest
]

_GUEST_S = 420.0
_LAYERS = {"cgroup_memory", "cgroup_processes", "cgroup_cpu", "cgroup_kill", "cgroup_namespace"}

Report = dict[str, Any]


@pytest.fixture(scope="module")
def report(request: pytest.FixtureRequest, sandbox_python: Path) -> Report:
    selected = [item for item in request.session.items if item.path == request.path]
    slow = any(item.get_closest_marker("slow") for item in selected)
    with tempfile.TemporaryDirectory() as home:
        return delegation_guest.boot_and_report(
            sandbox_python, Path(home), "all" if slow else "smoke", _GUEST_S
        )


@pytest.fixture(params=["ordinary", pytest.param("root", marks=pytest.mark.slow)])
def service(request: pytest.FixtureRequest, report: Report) -> Report:
    """The report of a service with a delegated group, as an ordinary user and as root."""
    assert report[request.param]["exit_code"] == 0
    return report[request.param]["printed"]


@pytest.fixture
def ordinary(report: Report) -> Report:
    assert report["ordinary"]["exit_code"] == 0
    return report["ordinary"]["printed"]


def test_v2_when_delegated_then_the_kernel_enforces_every_limit(service: Report) -> None:
    assert service["problem"] == ""
    assert set(service["layers"]) >= _LAYERS
    assert "memory_watch" not in service["layers"]
    assert not [text for text in service["degraded"] if "group" in text]


def test_v2_when_delegated_then_the_service_moves_to_a_leaf(service: Report) -> None:
    assert service["moved_to"] == "monkey-coder-service"
    assert service["in_the_group_itself"] == []


def test_v2_when_closed_then_its_group_is_as_it_was(report: Report, service: Report) -> None:
    assert service["run_groups_before_close"] == []
    assert service["groups_after_close"] == []
    assert service["moved_back"]
    for each in (report[name] for name in ("ordinary", "root") if name in report):
        nothing: Report = {"groups": [], "processes": [], "subtree_control": []}
        assert each["remaining"] == nothing
        assert each["removed"]


@pytest.mark.slow
def test_v2_when_runs_go_at_once_then_each_has_a_group_with_its_limits(ordinary: Report) -> None:
    record = ordinary["two_at_once"]

    for result in record["results"]:
        assert (result["reason"], result["exit_code"]) == ("exited", 0)
        # It has a control group namespace: it sees its own group as the root.
        assert set(result["stdout"].split()) == {"0::/"}
    groups = sorted(record["groups"].values(), key=lambda group: int(group["memory.max"]))
    for group, mib, processes, cpu in zip(
        groups, (64, 80), (10, 20), ("50000", "75000"), strict=True
    ):
        assert group["memory.max"] == str(mib * MIB + OWN_MEMORY)
        assert group["pids.max"] == str(processes + OWN_PROCESSES)
        assert group["cpu.max"] == f"{cpu} 100000"
        assert (group["memory.swap.max"], group["memory.oom.group"]) == ("0", "1")
        # bwrap, the supervisor, the program and its child.
        assert group["most_processes"] == 4


@pytest.mark.slow
def test_v2_when_one_process_uses_too_much_memory_then_the_kernel_ends_the_run(
    ordinary: Report,
) -> None:
    assert ordinary["memory"]["result"]["reason"] == "memory"


def test_v2_when_children_use_too_much_memory_then_the_kernel_ends_the_whole_run(
    service: Report,
) -> None:
    result = service["memory_in_children"]["result"]

    assert (result["reason"], result["exit_code"]) == ("memory", None)
    assert result["stdout"] == ""  # the shell was killed too
    assert 64 * MIB <= result["max_rss_bytes"] <= 64 * MIB + OWN_MEMORY


@pytest.mark.slow
def test_v2_when_a_fork_bomb_reaches_its_time_limit_then_no_process_is_left(
    ordinary: Report,
) -> None:
    (group,) = ordinary["fork_bomb"]["groups"].values()

    assert ordinary["fork_bomb"]["result"]["reason"] == "wall_time"
    assert 3 < group["most_processes"] <= 12 + OWN_PROCESSES
    assert ordinary["fork_bomb"]["alive"] == []


def test_v2_when_a_quarter_processor_is_allowed_then_no_more_is_used(ordinary: Report) -> None:
    (group,) = ordinary["busy"]["groups"].values()
    (first_at, first_cpu_s), (last_at, last_cpu_s) = group["first_cpu"], group["last_cpu"]

    assert group["cpu.max"] == "25000 100000"
    assert group["throttled"] > 0
    # By the guest's clock; a sample may be taken within a period.
    assert 0 < last_cpu_s - first_cpu_s <= 0.3 * (last_at - first_at) + 0.1


def test_v2_group_when_full_then_forks_fail(service: Report) -> None:
    record = service["group_kill"]

    assert (record["line"], record["limit"]) == ("refused", str(6 + OWN_PROCESSES))
    assert record["members"] == 6 + OWN_PROCESSES
    assert record["forks_refused"] > 0  # by the group, not by an rlimit


def test_v2_group_when_killed_then_all_members_end(service: Report) -> None:
    record = service["group_kill"]

    assert record["status"] == -9
    assert record["end_of_output"] == ""
    assert record["removed"]
    assert record["closed"]


@pytest.mark.slow
def test_v2_when_services_share_the_group_then_they_do_not_disturb_each_other(
    service: Report,
) -> None:
    record = service["beside_others"]

    assert len(record["others"]) == 2
    for layers in record["others"]:
        assert {*layers, "cgroup_namespace"} == _LAYERS
    assert record["members"] == [3]  # bwrap, the supervisor, the program
    assert record["after"]["reason"] == "memory"


@pytest.mark.slow
def test_v2_when_not_delegated_then_the_reason_and_a_remedy(report: Report) -> None:
    printed = report["not_delegated"]["printed"]

    assert printed["layers"] == ["memory_watch"]
    assert "is not delegated to it (Permission denied)" in printed["degraded"][0]
    assert "Delegate=yes" in printed["remedy"]
    assert report["not_delegated"]["remaining"]["groups"] == []
