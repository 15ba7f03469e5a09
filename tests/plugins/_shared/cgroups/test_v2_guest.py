"""Control groups of version 2 under systemd's delegation, in a guest with a kernel of its own.

Most machines bind the controllers to one version of the groups, so neither version can be
tried beside the other; a machine emulated by QEMU has them free.
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
    pytest.mark.skipif(
        bool(microvm.lack()), reason=f"CGROUP V2 DELEGATION IS NOT SHOWN: {microvm.lack()}"
    ),
    pytest.mark.timeout(480),  # all of an emulated machine's life, whoever asks first
]

_GUEST_S = 420.0
_LAYERS = {"cgroup_memory", "cgroup_processes", "cgroup_cpu", "cgroup_kill", "cgroup_namespace"}

Report = dict[str, Any]


@pytest.fixture(scope="module")
def report(sandbox_python: Path) -> Report:
    with tempfile.TemporaryDirectory() as home:
        return delegation_guest.hear(sandbox_python, Path(home), _GUEST_S)


@pytest.fixture(params=["ordinary", "root"])
def service(request: pytest.FixtureRequest, report: Report) -> Report:
    """What a service with a delegated group said, as an ordinary user and as root."""
    assert report[request.param]["exit_code"] == 0
    return report[request.param]["said"]


@pytest.fixture
def ordinary(report: Report) -> Report:
    assert report["ordinary"]["exit_code"] == 0
    return report["ordinary"]["said"]


def test_v2_when_delegated_then_the_kernel_enforces_every_limit(service: Report) -> None:
    assert service["problem"] == ""
    assert set(service["layers"]) >= _LAYERS
    assert "memory_watch" not in service["layers"]
    assert not [lack for lack in service["degraded"] if "group" in lack]


def test_v2_when_delegated_then_the_service_moves_to_a_leaf(service: Report) -> None:
    assert service["moved_to"] == "monkey-coder-service"
    assert service["in_the_group_itself"] == []


def test_v2_when_closed_then_its_group_is_as_it_was(report: Report, service: Report) -> None:
    assert service["run_groups_before_close"] == []
    assert service["groups_after_close"] == []
    assert service["moved_back"]
    for name in ("ordinary", "root"):
        nothing: Report = {"groups": [], "processes": [], "subtree_control": []}
        assert report[name]["left"] == nothing
        assert report[name]["removed"]


def test_v2_when_runs_go_at_once_then_each_has_a_group_with_its_limits(ordinary: Report) -> None:
    shown = ordinary["two_at_once"]

    for result in shown["results"]:
        assert (result["reason"], result["exit_code"]) == ("exited", 0)
        # What it sees of its groups is their root: a namespace of its own.
        assert set(result["stdout"].split()) == {"0::/"}
    groups = sorted(shown["groups"].values(), key=lambda group: int(group["memory.max"]))
    for group, mib, processes, cpu in zip(
        groups, (64, 80), (10, 20), ("50000", "75000"), strict=True
    ):
        assert group["memory.max"] == str(mib * MIB + OWN_MEMORY)
        assert group["pids.max"] == str(processes + OWN_PROCESSES)
        assert group["cpu.max"] == f"{cpu} 100000"
        assert (group["memory.swap.max"], group["memory.oom.group"]) == ("0", "1")
        # bwrap, the supervisor, the program and its child.
        assert group["most_processes"] == 4


def test_v2_when_one_process_is_hungry_then_the_kernel_ends_the_run(ordinary: Report) -> None:
    assert ordinary["hungry"]["result"]["reason"] == "memory"


def test_v2_when_many_are_hungry_then_the_kernel_ends_all_of_the_run(service: Report) -> None:
    result = service["family"]["result"]

    assert (result["reason"], result["exit_code"]) == ("memory", None)
    assert result["stdout"] == ""  # the shell that would have gone on is dead too
    assert 64 * MIB <= result["max_rss_bytes"] <= 64 * MIB + OWN_MEMORY


def test_v2_when_a_bomb_runs_out_of_time_then_nothing_is_left(ordinary: Report) -> None:
    (group,) = ordinary["bomb"]["groups"].values()

    assert ordinary["bomb"]["result"]["reason"] == "wall_time"
    assert 3 < group["most_processes"] <= 12 + OWN_PROCESSES
    assert ordinary["bomb"]["alive"] == []


def test_v2_when_a_quarter_processor_is_allowed_then_no_more_is_used(ordinary: Report) -> None:
    (group,) = ordinary["busy"]["groups"].values()
    (began, at_first), (ended, at_last) = group["first_cpu"], group["last_cpu"]

    assert group["cpu.max"] == "25000 100000"
    assert group["throttled"] > 0
    # The kernel's own account by the guest's own clock, whose looks don't end with a period.
    assert 0 < at_last - at_first <= 0.3 * (ended - began) + 0.1


def test_v2_group_when_full_then_the_kernel_forks_no_more(service: Report) -> None:
    shown = service["group_kill"]

    assert (shown["said"], shown["most"]) == ("refused", str(6 + OWN_PROCESSES))
    assert shown["members"] == 6 + OWN_PROCESSES
    assert shown["forks_refused"] > 0  # by the group, not by a limit of the user's


def test_v2_group_when_killed_then_all_in_it_are_dead(service: Report) -> None:
    shown = service["group_kill"]

    assert shown["status"] == -9
    assert shown["end_of_output"] == ""
    assert shown["removed"]
    assert shown["closed"]


def test_v2_when_other_services_share_the_group_then_none_harms_another(service: Report) -> None:
    shown = service["beside_others"]

    assert len(shown["others"]) == 2
    for layers in shown["others"]:
        assert {*layers, "cgroup_namespace"} == _LAYERS
    assert shown["members"] == [3]  # bwrap, the supervisor, the program
    assert shown["after"]["reason"] == "memory"


def test_v2_when_not_delegated_then_it_says_so_and_what_helps(report: Report) -> None:
    said = report["withheld"]["said"]

    assert said["layers"] == ["memory_watch"]
    assert "is not delegated to it (Permission denied)" in said["degraded"][0]
    assert "Delegate=yes" in said["remedy"]
    assert report["withheld"]["left"]["groups"] == []
