"""The processes of a server, seen from outside."""

from pathlib import Path

from tests.support.server_process import ServerProcess


def engine_of(server: ServerProcess, model: str) -> int:
    """The id of the process that has this model's file mapped."""
    found = find_engine(server, model)
    assert found is not None, f"no engine holds the model {model}"
    return found


def find_engine(server: ServerProcess, model: str) -> int | None:
    """As `engine_of`, None if there is none."""
    assert server.process is not None
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != server.process.pid:
            try:
                maps = (folder / "maps").read_text()
            except OSError:
                continue
            if f"{server.data_dir.parent}/{model}.gguf" in maps:
                return int(folder.name)
    return None


def resident(pid: int) -> int:
    """Anonymous memory in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"process {pid} tells no memory")
