"""Confinement of the engine: attacks from inside are refused, and the engine works.

Each attack also runs unconfined, where it must succeed, to show that the test can fail.
"""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.domain.models import ModelState
from plugins._shared import landlock
from plugins._shared.seccomp.bpf import is_supported
from plugins._shared.seccomp.numbers import syscall_numbers
from plugins.providers.llama_cpp.confinement import seccomp
from tests.support.llama_provider import complete, provider_for, request
from tests.support.tiny_gguf import write_tiny_gguf

_ROOT = Path(__file__).resolve().parents[5]
_BEGIN = """
import sys, pathlib
from plugins.providers.llama_cpp.confinement.lockdown import confine
model, folder = map(pathlib.Path, sys.argv[1:3])
secret = folder / "secret"
confinement = confine(model, gpu=False) if sys.argv[3] == "confined" else None
"""
_EACH = """
import resource, socket
for name, code in {attacks!r}.items():
    if confinement is None:
        secret.write_text("secret")
    try:
        exec(code)
    except (OSError, ValueError) as error:
        print(name, "refused", error, sep=": ", flush=True)
    else:
        print(name, "reached", sep=": ", flush=True)
"""
_ATTACKS = {
    "read another file": "secret.read_text()",
    "list a folder": "import os; os.listdir(folder)",
    "write a file": "(folder / 'new').write_text('x')",
    "change the model": "model.open('r+b').write(b'x')",
    "append to a file": "secret.open('ab').write(b'x')",
    "remove a file": "secret.unlink()",
    "rename a file": "secret.rename(folder / 'other')",
    "make a folder": "(folder / 'dir').mkdir()",
    "make a link": "(folder / 'link').symlink_to(secret)",
    "change a mode": "secret.chmod(0o777)",
    "truncate a file": "import os; os.truncate(secret, 0)",
    "open a network socket": "import socket; socket.socket()",
    "open a Unix socket": "import socket; socket.socket(socket.AF_UNIX)",
    "make a pair of sockets": "import socket; socket.socketpair()",
    "start a program": "import subprocess; subprocess.run(['/bin/true'], check=True)",
    "fork": "import os; os.fork() or os._exit(0)",
    "signal another process": "import os; os.kill(os.getppid(), 0)",
    "raise its limits": (
        "import resource as r; r.setrlimit(r.RLIMIT_CORE, r.getrlimit(r.RLIMIT_CORE))"
    ),
    "memory of no process": "import os; os.memfd_create('x')",
    "read a file through its descriptor": "open('/proc/self/root' + str(secret)).read()",
    "become a program": "import os; os.execv('/bin/true', ['true'])",
}


def _run(tmp_path: Path, code: str, mode: str) -> str:
    """What the code prints, "confined" or "free"."""
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    folder = tmp_path / mode
    folder.mkdir()
    (folder / "secret").write_text("secret")
    argv = [sys.executable, "-c", _BEGIN + code, str(model), str(folder), mode]
    done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_attacks_when_confined_then_each_is_refused_and_unconfined_each_works(tmp_path: Path):
    code = _EACH.format(attacks=_ATTACKS)
    free, confined = (_run(tmp_path, code, mode).splitlines() for mode in ("free", "confined"))
    assert [line for line in free if "refused" in line] == []
    assert [line.split(": ")[:2] for line in confined] == [[name, "refused"] for name in _ATTACKS]


def test_confined_when_work_is_ordinary_then_it_succeeds(tmp_path: Path):
    ordinary = (
        "import threading, mmap, json\n"
        "thread = threading.Thread(target=model.read_bytes); thread.start(); thread.join()\n"
        "with model.open('rb') as file: mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)\n"
        "print(json.dumps(confinement.layers), confinement.missing)\n"
    )
    output = _run(tmp_path, ordinary, "confined")
    expected = ["no_new_privileges", "no_capabilities", "rlimits", "seccomp"]
    assert all(f'"{layer}"' in output for layer in expected)
    assert ('"landlock"' in output) == (landlock.version() > 0)


def test_confined_when_other_threads_run_already_then_landlock_is_named_as_missing(
    tmp_path: Path,
):
    code = "print(confinement.missing, confinement.layers)"
    program = (
        "import threading, sys, pathlib, time\n"
        "threading.Thread(target=time.sleep, args=(3,), daemon=True).start()\n"
        "from plugins.providers.llama_cpp.confinement.lockdown import confine\n"
        "confinement = confine(pathlib.Path(sys.argv[1]), gpu=False)\n"
    )
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    argv = [sys.executable, "-c", program + code, str(model)]
    done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert "landlock: 1 other threads" in done.stdout
    assert "'seccomp'" in done.stdout


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("gpu", [False, True])
def test_filter_when_built_then_fits_the_kernel_for_every_machine(machine: str, gpu: bool):
    lines = len(seccomp.build_filter(machine, 4711, gpu=gpu)) // 8
    assert 0 < lines <= 4096
    assert not set(seccomp.ALLOWED) & set(seccomp.DENIED_WITH_GPU)
    assert syscall_numbers(seccomp.ALLOWED, machine)


async def test_engine_when_confined_then_serves_and_reports_its_layers(tmp_path: Path):
    tiny = write_tiny_gguf(tmp_path / "tiny.gguf")
    provider, _ = provider_for(tmp_path, {"tiny": tiny}, threads=2)
    try:
        _, finished = await complete(provider, request("x"))
        (info,) = await provider.models()
        pid = provider.engine_pid("tiny")
        status = _status(pid)
    finally:
        await provider.close()
    assert finished.usage.completion_tokens == 8
    assert info.state is ModelState.READY
    assert ("seccomp" in info.layers) == is_supported(platform.machine())
    assert ("landlock" in info.layers) == (landlock.version() > 0)
    lines = dict(line.split(":", 1) for line in status.splitlines())
    assert lines["Seccomp"].strip() == "2"
    assert lines["NoNewPrivs"].strip() == "1"
    assert int(lines["CapEff"], 16) == int(lines["CapBnd"], 16) == 0


def _status(pid: int | None) -> str:
    return Path(f"/proc/{pid}/status").read_text()
