"""A model of a remote provider that follows a script: it reads a file, writes another, answers.

It speaks OpenAI's chat API and calls the tools that a request offers, whatever an agent calls them.
"""

import json
import re
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WORD = re.compile(r"word-\d+")
NOTE, COPY = "note.txt", "copy.txt"
SEEN = "The weather tool was called."

Json = dict[str, Any]


class ScriptedModel:
    """Copies the word in `folder`/NOTE to `folder`/COPY and names it in its answer."""

    def __init__(self) -> None:
        self.folder = ""
        self.requests: list[Json] = []

    def answer(self, body: Json) -> Json:
        """The delta of the answer: text, or a call of a tool."""
        self.requests.append(body)
        offered = {tool["function"]["name"] for tool in body.get("tools", ())}
        results = [_text(each) for each in body["messages"] if each["role"] == "tool"]
        if "weather" in offered:
            return {"content": SEEN} if results else _call("weather", city="Oslo")
        if not offered & {"Read", "read", "exec_command"}:
            return {"content": "A word is copied"}  # asked for a title, or without tools
        if not results:
            return self._read(offered)
        found = WORD.search(results[0])
        word = found[0] if found else f"nothing in {results[0][:500]!r}"
        return {"content": f"Copied {word}"} if len(results) > 1 else self._write(offered, word)

    def _read(self, offered: set[str]) -> Json:
        path = f"{self.folder}/{NOTE}"
        if "exec_command" in offered:
            return _call("exec_command", cmd=f"cat {NOTE}", workdir=self.folder)
        return _call("Read", file_path=path) if "Read" in offered else _call("read", filePath=path)

    def _write(self, offered: set[str], word: str) -> Json:
        path = f"{self.folder}/{COPY}"
        if "exec_command" in offered:
            return _call("exec_command", cmd=f"echo {word} > {COPY}", workdir=self.folder)
        if "Write" in offered:
            return _call("Write", file_path=path, content=word)
        return _call("write", filePath=path, content=word)


def _call(name: str, **arguments: str) -> Json:
    function = {"name": name, "arguments": json.dumps(arguments)}
    return {"tool_calls": [{"index": 0, "id": f"call_{name}", "function": function}]}


def _text(message: Json) -> str:
    return json.dumps(message["content"])


@contextmanager
def scripted_upstream(model: ScriptedModel) -> Generator[str, None, None]:
    """The base URL of a server of `model` on loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send("application/json", json.dumps({"data": [{"id": "coder"}]}))

        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            body = json.loads(self.rfile.read(length))
            choice: Json = {"index": 0}
            if self.path.endswith("/chat/completions"):
                delta = model.answer(body)
                calls = "tool_calls" in delta
                choice |= {"delta": delta, "finish_reason": "tool_calls" if calls else "stop"}
            else:
                choice |= {"text": "and so on", "finish_reason": "stop"}
            usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
            events: list[Json] = [{"choices": [choice]}, {"choices": [], "usage": usage}]
            lines = [f"data: {json.dumps(event)}\n\n" for event in events]
            self._send("text/event-stream", "".join([*lines, "data: [DONE]\n\n"]))

        def _send(self, media_type: str, text: str) -> None:
            data = text.encode()
            self.send_response(200)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: a test looks at `requests`."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
