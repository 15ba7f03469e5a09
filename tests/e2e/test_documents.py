"""The published guide's own examples, run against a real server with a real model."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.server_process import ServerProcess, clean_env

DOCUMENTS = Path(__file__).parent / "documents"
TIMEOUT_S = 240


def as_printed(name: str, server: ServerProcess) -> str:
    """An example of the guide, with this server's address and key in it."""
    text = (DOCUMENTS / name).read_text()
    return text.replace("http://localhost:8000", server.url).replace("mk-YOUR_API_KEY", server.key)


def run(words: list[str]) -> str:
    done = subprocess.run(
        words, env=clean_env(), capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def curl(name: str, server: ServerProcess) -> Any:
    return json.loads(run(["bash", "-c", as_printed(name, server)]))


def assert_executed(answer: Any) -> None:
    assert answer["status"] == "completed", answer
    assert answer["result"]["result"]
    assert answer["metadata"]["provider_used"] == "llama_cpp"
    assert answer["metadata"]["tokens_used"] == answer["usage"]["tokens_used"] > 0


def test_curl_dev_key_when_enabled_then_a_working_key(server: ServerProcess) -> None:
    answer = curl("create_dev_key.sh", server)
    assert answer["key"].startswith("mk-")
    assert answer["status"] == "active"
    assert answer["permissions"] == ["*"]


def test_curl_status_when_key_is_sent_then_authenticated(server: ServerProcess) -> None:
    assert curl("test_authentication.sh", server)["authenticated"] is True


@pytest.mark.parametrize("name", ["execute_task.sh", "generate_code.sh", "analyze_code.sh"])
def test_curl_execute_when_pasted_from_the_guide_then_completed(
    name: str, server: ServerProcess
) -> None:
    assert_executed(curl(name, server))


def test_python_client_when_pasted_from_the_guide_then_completed(server: ServerProcess) -> None:
    source = as_printed("client.py", server)
    source = source.replace("print(result)", "print(json.dumps(result))")
    assert_executed(json.loads(run([sys.executable, "-c", source])))


def test_javascript_client_when_pasted_from_the_guide_then_completed(
    server: ServerProcess, tmp_path: Path
) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node: Node.js is not on this machine")
    source = as_printed("client.mjs", server)
    source = re.sub(r"\.then\(console\.log\)", ".then(r => console.log(JSON.stringify(r)))", source)
    script = tmp_path / "client.mjs"
    script.write_text(source)
    assert_executed(json.loads(run([node, str(script)])))
