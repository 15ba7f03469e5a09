"""A server that answers the task client from a script, with the faults that connections have."""

import json
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

START = {"type": "start", "task_id": "task_x"}


def progress(step: str, **more: Any) -> dict[str, Any]:
    return {"type": "progress", "message": step, "progress": {"step": step}} | more


def complete(files: dict[str, str] | None = None, /, **verification: Any) -> dict[str, Any]:
    """The last frame of a task that ended well."""
    artifacts = [
        {"name": name, "filename": name, "type": "file", "content": content}
        for name, content in (files or {}).items()
    ]
    result = {"result": "print(1)", "code": "print(1)", "artifacts": artifacts, "warnings": []}
    data = {
        "task_id": "task_x",
        "status": "completed",
        "result": result,
        "metadata": {"model": "tiny", "tokens_used": 12, "execution_time": 1.5},
        "verification": {"level": "none", "passed": 0, "failed": 0} | verification,
    }
    return {"type": "complete", "result": result, "data": data}


class ScriptedServer:
    """`parts` are what each stream request sends, one after the other, before it closes."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.parts: Sequence[Sequence[dict[str, Any]]] = ()
        self.refusal: tuple[int, bytes] | None = None
        self.hang = threading.Event()
        self.hanging = threading.Event()
        self.requests: list[tuple[str, str, dict[str, str], Any]] = []
        self._seen = 0

    def next_frames(self) -> bytes:
        content = b": heartbeat\n\n"
        for frame in self._next_part():
            self._seen += 1
            content += f"id: {self._seen}\ndata: {json.dumps(frame)}\n\n".encode()
        return content

    def _next_part(self) -> Sequence[dict[str, Any]]:
        part, self.parts = (self.parts[0], self.parts[1:]) if self.parts else ((), ())
        return part

    def requested_paths(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path, _, _ in self.requests]


@contextmanager
def scripted_server() -> Generator[ScriptedServer]:
    """A running one on a free loopback port."""
    http = _Server(("127.0.0.1", 0), _Handler)
    server = http.scripted
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.hang.set()
        http.shutdown()
        thread.join(5)
        http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of what is tested here."""

    def server_activate(self) -> None:
        super().server_activate()
        self.scripted = ScriptedServer(f"http://127.0.0.1:{self.server_address[1]}")


class _Handler(BaseHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", 0))
        self._answer(json.loads(self.rfile.read(length) or b"null"))

    def _answer(self, body: Any) -> None:
        server = cast("_Server", self.server).scripted
        headers = {name.lower(): value for name, value in self.headers.items()}
        server.requests.append((self.command, self.path, headers, body))
        if self.path.endswith("/cancel"):
            server.hang.set()
            self._send(200, b"{}", "application/json")
        elif server.refusal:
            self._send(server.refusal[0], server.refusal[1], "application/json")
        else:
            self._send(200, server.next_frames(), "text/event-stream")
            if not server.parts and not server.hang.is_set():
                server.hanging.set()
                server.hang.wait(20)

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()
