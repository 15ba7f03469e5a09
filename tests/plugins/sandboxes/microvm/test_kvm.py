"""Why KVM can't be used, and the remedy."""

import os
from pathlib import Path

from plugins.sandboxes.microvm import (
    probe,
)


def test_kvm_problem_without_the_device_says_how_to_turn_virtualization_on(tmp_path: Path):
    problem, remedy = probe.kvm_problem(tmp_path / "kvm")

    assert "missing" in problem
    assert "nested virtualization" in remedy
    assert "sandbox.microvm_emulation" in remedy


def test_kvm_problem_when_the_device_is_not_accessible_names_the_group(tmp_path: Path):
    (tmp_path / "kvm").write_bytes(b"")

    problem, remedy = probe.kvm_problem(tmp_path / "kvm")

    assert "may not use" in problem
    assert "group kvm" in remedy


def test_kvm_problem_when_the_device_can_be_opened_is_none():
    assert probe.kvm_problem(Path(os.devnull)) == ("", "")
