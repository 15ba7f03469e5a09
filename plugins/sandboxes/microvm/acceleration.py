"""Which ways to run a guest's processor are worth trying here."""

import os
import stat
from pathlib import Path

KVM = Path("/dev/kvm")
EMULATION = "or set sandbox.microvm_emulation = true, which runs everything many times more slowly"


def lack_of_kvm(device: Path = KVM) -> tuple[str, str]:
    """(problem, remedy) where KVM can't even be tried; ("", "") where it can."""
    try:
        mode = device.stat().st_mode
    except OSError:
        return (
            f"this machine offers no virtualization ({device} is missing)",
            "turn it on in the firmware, or for a virtual machine at its host (nested "
            f"virtualization), {EMULATION}",
        )
    if not stat.S_ISCHR(mode) or not os.access(device, os.R_OK | os.W_OK):
        return (
            f"the service may not use {device}",
            f"add the service's user to the group kvm and start it anew, {EMULATION}",
        )
    return "", ""


def useless_kvm(said: str) -> tuple[str, str]:
    """(problem, remedy) where KVM opens, and a machine with it does not start."""
    return (
        f"{KVM} can be opened and boots no machine ({said})",
        f"turn on nested virtualization at this machine's host, {EMULATION}",
    )
