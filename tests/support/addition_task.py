"""A coding task with known right and wrong answers: write add(a, b)."""

from appliance.domain.tasks import (
    SourceFile,
    TaskRequest,
)

GOOD = "```python\ndef add(a, b):\n    return a + b\n```"


LONGER = "```python\ndef add(a, b):\n    total = a + b\n    return total\n```"


BAD = "```python\ndef add(a, b):\n    return a - b\n```"


BROKEN = "```python\ndef add(a, b)\n    return\n```"


EXAMPLES = "Write a Python function add such that add(1, 2) == 3 and add(0, 0) == 0"


TESTS = (
    SourceFile(
        "test_calc.py",
        "from calc import add\n\ndef test_one():\n    assert add(1, 2) == 3\n\n"
        "def test_two():\n    assert add(0, 0) == 0\n",
    ),
)


def make_request(prompt: str = EXAMPLES, branches: int | None = 3, **more: object) -> TaskRequest:
    return TaskRequest(prompt=prompt, branches=branches, **more)  # pyright: ignore[reportArgumentType]
