"""A server with plugins that fail at different times (F70): reported by name, never fatal."""

from pathlib import Path

import httpx

from tests.support.polling import wait_until
from tests.support.server_process import command, running_server

PLUGINS = {
    "no_import": "raise RuntimeError('no licence')",
    "no_provider": (
        "def register(registry):\n    registry.add_provider('no_provider', lambda context: 1 / 0)\n"
    ),
    "no_cell": (
        "def register(registry):\n    registry.add_sandbox('no_cell', lambda context: object())\n"
    ),
}


def test_serve_when_plugins_are_broken_then_it_serves_and_names_each(tmp_path: Path) -> None:
    folder = tmp_path / "plugins"
    folder.mkdir(mode=0o755)
    for name, code in PLUGINS.items():
        (folder / f"{name}.py").write_text(code)
    variable = {"MONKEY_CODER__PLUGINS__PATH": str(folder)}
    with running_server(tmp_path / "data", None, **variable) as server:
        server.wait_ready()
        with server.client() as client:
            providers = client.get("/api/v1/providers").text
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        wait_until(lambda: "no_cell is broken" in server.log.read_text())
        said = server.log.read_text()
    assert "no_import is broken: RuntimeError: no licence" in said
    assert "no_provider is broken: ZeroDivisionError: division by zero" in said
    assert "no_cell is broken: its factory returned object, not a SandboxBackend" in said
    assert all(name in providers for name in PLUGINS)
    found = command("doctor", "--data-dir", tmp_path / "data", check=False, env=variable).stdout
    assert all(f"{name} is broken" in found for name in PLUGINS)
