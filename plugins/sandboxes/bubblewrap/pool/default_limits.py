"""The limits that most runs have, and which of them a sandbox is made with."""

from collections.abc import Mapping
from typing import Any

from appliance.domain.execution import MIB, Limits

_MADE_WITH = (
    "memory_bytes",
    "processes",
    "workspace_bytes",
    "workspace_files",
    "tmp_bytes",
    "cpus",
)


def usual_limits(settings: Mapping[str, Any]) -> Limits:
    """Those of the section [sandbox], as far as a sandbox is made with them."""
    default = Limits()
    mib = {
        name: settings[f"{name}_mib"] * MIB
        for name in ("memory", "workspace", "tmp")
        if f"{name}_mib" in settings
    }
    return Limits(
        memory_bytes=mib.get("memory", default.memory_bytes),
        processes=settings.get("processes", default.processes),
        workspace_bytes=mib.get("workspace", default.workspace_bytes),
        workspace_files=settings.get("workspace_files", default.workspace_files),
        tmp_bytes=mib.get("tmp", default.tmp_bytes),
        cpus=settings.get("cpus", default.cpus),
    )


def made_alike(one: Limits, other: Limits) -> bool:
    """Whether a sandbox made for one serves the other: the rest comes with the job."""
    return all(getattr(one, name) == getattr(other, name) for name in _MADE_WITH)
