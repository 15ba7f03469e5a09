"""Floods of programs that want everything: others' programs still run."""

from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.support.bystander import under_attack
from tests.support.server_process import ServerProcess

RUN = "/api/v1/sandbox/run"
DEADLINE_S = 120.0
PROGRAMS = (
    "import os\nwhile True:\n try: os.fork()\n except OSError: pass",
    "x = []\nwhile True: x.append(bytearray(1 << 20))",
    "while True: print('x' * 10000)",
    "open('big', 'wb').write(bytes(1 << 26))\nwhile True: pass",
    "import threading\nwhile True: threading.Thread(target=lambda: [0] * 10**9).start()",
)


def test_runs_when_one_user_floods_the_sandbox_then_others_are_served(
    attacked: ServerProcess, bystander_key: str
) -> None:
    def run(number: int) -> httpx.Response:
        code = PROGRAMS[number % len(PROGRAMS)]
        body = {"argv": ["python", "-c", code], "limits": {"wall_s": 1}}
        with attacked.client() as client:
            return client.post(RUN, json=body, timeout=DEADLINE_S)

    with under_attack(attacked, bystander_key), ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(run, range(30)))
    assert {answer.status_code for answer in answers} == {200, 503}
    refused = {answer.json()["error"]["code"] for answer in answers if answer.status_code == 503}
    assert refused == {"QUEUE_FULL"}
