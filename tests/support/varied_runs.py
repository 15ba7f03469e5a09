"""Varied tasks and sandbox runs."""

import asyncio
import json
from typing import Any

import aiohttp

from tests.support.fake_upstream import STALL, as_events
from tests.support.varied_recorder import (
    ADD,
    CHAT,
    CODE,
    LONG_CODE,
    USED,
    Recorder,
    answer,
    wait_for_bodies,
)


async def call_tasks(recorder: Recorder) -> None:
    """Tasks of several kinds, by several providers, to several ends."""
    call = recorder.call
    wrong = CODE.replace("+", "-")
    files = (
        "```python title=add.py\ndef add(a, b):\n    return a + b\n```\n"
        "```text title=notes.txt\nIt adds.\n```\n"
        "```python title=test_add.py\nfrom add import add\n\ndef test_add():\n"
        "    assert add(1, 2) == 3\n```"
    )
    right, many = answer(CODE, usage=USED), answer(files)
    unmetered = {"index": 0, "delta": {"content": "x"}, "finish_reason": "stop"}
    recorder.upstream.on(
        "/down/v1/chat/completions", as_events({"choices": [unmetered]}, last=b"data: [DONE]\n\n")
    )
    test = {"path": "test_add.py", "content": "from solution import add\n\ndef test_it():\n"
            "    assert add(1, 2) == 3\n"}  # fmt: skip
    bodies: list[dict[str, Any]] = [
        {"prompt": ADD, "model": "up/m", "quantum_config": {"branches": 3},
         "answers": [answer(wrong), right, answer("nothing"), right]},
        {"prompt": ADD, "model": "up/m", "quantum_config": {"branches": 1},
         "answers": [answer(wrong), right]},
        {"prompt": ADD, "model": "up/m", "quantum_config": {"branches": 2},
         "answers": [answer(wrong)]},
        {"prompt": ADD, "model": "up/m", "tests": [test], "answers": [answer(LONG_CODE)]},
        {"prompt": ADD, "model": "up/m", "answers": [many]},
        {"prompt": "/docs explain this", "model": "up/m", "files": [test], "answers": [many]},
        {"prompt": "/review this", "model": "tiny", "max_tokens": 20, "files": [test]},
        {"prompt": "Write a Python function add", "model": "up/m", "collapse_strategy": "combined",
         "orchestration_config": {"branches": 3, "strategy": "consensus"}},
        {"prompt": ADD, "model": "smart", "quantum_config": {"branches": 2, "temperature": 0.9}},
        {"prompt": ADD, "model": "up/m", "quantum_config": {"branches": 3, "strategy":
         "first_success"}},
        {"prompt": "Change calc.py: add a function sub", "model": "up/m", "temperature": 0.1,
         "files": [{"path": "calc.py", "content": "def add(a, b):\n    return a + b\n"}]},
        {"prompt": "Write a shell script", "model": "up/m"},
        {"prompt": ADD, "model": "none"},
        {"prompt": ADD, "model": "down/m"},
        {"prompt": ADD, "model": "nothing", "provider": "up"},
        {"prompt": "x", "model": "tiny", "max_tokens": 400, "timeout": 0.01},
        {"prompt": "/docs y", "model": "tiny", "max_tokens": 400, "timeout": 0.02},
        {"prompt": "Write a bash script", "task_type": "testing", "persona": "tester",
         "model": "up/n"},
    ]  # fmt: skip
    for body in bodies:
        answers = body.pop("answers", [right, many, answer(LONG_CODE)])
        recorder.upstream.on(CHAT, *answers)
        ended = await call("POST /api/v1/execute", body)
        recorder.upstream.on(CHAT, *answers)
        await call("POST /api/v1/execute/stream", body)
        if "task_id" in ended:
            await call("GET /api/v1/tasks/{task_id}", task_id=ended["task_id"])
            await call("GET /api/v1/tasks/{task_id}/events", task_id=ended["task_id"])
    await _cancel_task(recorder)
    await call("GET /api/v1/tasks")
    await call("GET /api/v1/tasks?limit=2")
    await call("GET /api/v1/tasks?status=failed")
    for task in (await call("GET /api/v1/tasks"))["tasks"]:
        await call("DELETE /api/v1/tasks/{task_id}", task_id=task["task_id"])


async def _cancel_task(recorder: Recorder) -> None:
    """A task that its owner cancels while its model writes."""
    upstream = recorder.upstream
    upstream.on(CHAT, as_events({"choices": []}, end=STALL))
    for number, route in enumerate(("POST /api/v1/execute", "POST /api/v1/execute/stream")):
        name, asked = f"stopped{number}", len(upstream.bodies(CHAT))
        body = {"prompt": ADD, "model": "up/m", "task_id": name}
        waiting = asyncio.create_task(recorder.call(route, body))
        await wait_for_bodies(upstream, asked + 1)
        # Answered with the task, which is recorded below.
        headers = {"Authorization": f"Bearer {recorder.keys['alice']}"}
        await recorder.http.post(f"/api/v1/tasks/{name}/cancel", headers=headers)
        await waiting
        await recorder.call("GET /api/v1/tasks/{task_id}", task_id=name)
        await recorder.call("GET /api/v1/tasks/{task_id}/events", task_id=name)


async def call_sandbox(recorder: Recorder) -> None:
    call = recorder.call
    bodies: list[dict[str, Any]] = [
        {"language": "python", "code": "print(1)"},
        {"language": "python", "code": "import sys; sys.stderr.buffer.write(b'\\xff')"},
        {"language": "python", "code": "import sys; sys.stdout.buffer.write(b'\\xff'); exit(3)"},
        {"language": "python", "code": "import sys; sys.stdout.buffer.write(b'\\xfe')"},
        {"language": "python", "code": "import sys; sys.stderr.buffer.write(b'\\xfe')"},
        {"language": "python", "code": "import os; os.symlink('/', 'd')", "artifacts": ["*"]},
        {"language": "python", "code": "import os; os.kill(os.getpid(), 9)"},
        {"language": "python", "code": "print('x' * 3_000_000)"},
        {"language": "python", "code": "while True: pass", "limits": {"cpu_s": 0.2}},
        {"argv": ["python", "-c", "open('a.txt', 'w').write('a'); open('b', 'wb').write(b'\\xff')"],
         "artifacts": ["*"]},
        {"language": "python", "code": "import os; open('a.txt', 'w').write('a' * 9); "
         "os.chmod('a.txt', 0o755); os.symlink('/etc', 'c')", "artifacts": ["*"]},
        {"language": "c", "code": "#include <stdio.h>\nint main(void) { puts(\"a\"); }"},
        {"language": "c", "code": "int main(void) { return x; }"},
        {"language": "c", "code": '#include "/dev/zero"'},
        {"language": "c", "code": "#warning note\nint main(void) { return 2; }"},
    ]  # fmt: skip
    for body in bodies:
        await call("POST /api/v1/sandbox/run", body)
        await call("POST /api/v1/sandbox/run/stream", body)
    await asyncio.gather(*(call("POST /api/v1/sandbox/run/stream", bodies[0]) for _ in range(8)))
    await call("GET /api/v1/sandbox/languages?wait=true")
    for body in bodies:
        if "code" in body:
            files = [{"content": body["code"]}]
            run = {"language": body["language"], "version": "*", "files": files}
            await call("POST /api/v2/execute", run | {"run_timeout": 3000})
            await _connect(recorder, run)
    await call("GET /api/v2/runtimes")
    for package in await call("GET /api/v2/packages"):
        body = {"language": package["language"], "version": package["language_version"]}
        await call("POST /api/v2/packages", body)


async def _connect(recorder: Recorder, run: dict[str, Any]) -> None:
    """A run over Piston's WebSocket."""
    headers = {"Authorization": f"Bearer {recorder.keys['alice']}"}
    url = f"{recorder.http.base_url}".rstrip("/") + "/api/v2/connect"
    async with aiohttp.ClientSession() as session, session.ws_connect(url, headers=headers) as ws:
        await ws.send_str(json.dumps({"type": "init"} | run))
        async for message in ws:
            recorder.fields.add_event("WEBSOCKET /api/v2/connect", json.loads(message.data))
