"""Answers as models really write them."""

import pytest

from appliance.agents.code.answer_parser import CodeBlock, parse_answer

CODE = "def f(x):\n    return x + 1\n"
JS = "function f(x) { return x + 1; }\n"


def one(text: str, expected: str | None = "python") -> CodeBlock:
    blocks = parse_answer(text, expected).blocks
    assert len(blocks) == 1, blocks
    return blocks[0]


@pytest.mark.parametrize(
    ("text", "language", "path"),
    [
        (f"```python\n{CODE}```", "python", None),
        (f"```py\n{CODE}```", "python", None),
        (f"```Python\n{CODE}```", "python", None),
        (f"``` python\n{CODE}```", "python", None),
        (f"```\n{CODE}```", None, None),
        (f"~~~python\n{CODE}~~~", "python", None),
        (f"````python\n{CODE}````", "python", None),
        (f"Sure! Here it is:\n\n```python\n{CODE}```\n\nHope it helps.", "python", None),
        (f"```python\n{CODE}", "python", None),
        (f"```python\n{CODE.rstrip()}```", "python", None),
        (f"```python\n\n\n{CODE}\n\n```", "python", None),
        (f"```python\r\n{CODE}```\r\n", "python", None),
        (
            f"1. Do this:\n   ```python\n   {CODE.replace(chr(10), chr(10) + '   ')}\n   ```",
            "python",
            None,
        ),
        (f"```python:app.py\n{CODE}```", "python", "app.py"),
        (f"```python app.py\n{CODE}```", "python", "app.py"),
        (f"```app.py\n{CODE}```", "python", "app.py"),
        (f'```python title="src/app.py"\n{CODE}```', "python", "src/app.py"),
        (f"```python filename=app.py\n{CODE}```", "python", "app.py"),
        (f"```{{.python file=app.py}}\n{CODE}```", "python", "app.py"),
        (f"**app.py**\n```python\n{CODE}```", "python", "app.py"),
        (f"`src/app.py`:\n\n```python\n{CODE}```", "python", "src/app.py"),
        (f"### app.py\n```python\n{CODE}```", "python", "app.py"),
        (f"File: app.py\n```\n{CODE}```", "python", "app.py"),
        (f"1. `app.py`\n```python\n{CODE}```", "python", "app.py"),
        (f"```python\n# app.py\n{CODE}```", "python", "app.py"),
        (f"```python\n# File: src/app.py\n{CODE}```", "python", "src/app.py"),
        (f"```js\n// src/app.js\n{JS}```", "javascript", "src/app.js"),
        ("```html\n<!-- index.html -->\n<p>hi</p>\n```", "html", "index.html"),
        ("```css\n/* style.css */\np { color: red }\n```", "css", "style.css"),
        (f"```javascript\n{JS}```", "javascript", None),
        ("```sh\necho hi\n```", "shell", None),
        ("Dockerfile\n```\nFROM scratch\n```", None, "Dockerfile"),
        (f"```python ../../etc/app.py\n{CODE}```", "python", None),
        (f"```python /etc/app.py\n{CODE}```", "python", None),
        (f"```python C:\\\\app.py\n{CODE}```", "python", None),
        (f"```python src\\app.py\n{CODE}```", "python", "src/app.py"),
        (f"<think>Let me ```think```.</think>\n```python\n{CODE}```", "python", None),
        (f"In Python 3.11 write\n```python\n{CODE}```", "python", None),
    ],
)
def test_parse_when_a_block_is_fenced_then_language_and_name_are_found(
    text: str, language: str | None, path: str | None
) -> None:
    block = one(text)
    assert (block.language, block.path) == (language, path)


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{CODE}```",
        f"```python\n{CODE}",
        f"```python\n{CODE.rstrip()}```",
        f"  ```python\n  {CODE.replace(chr(10), chr(10) + '  ')}\n  ```",
        CODE,
        f"Here is the code:\n\n{CODE}\nIt adds one.",
        f"{CODE}```\nThis adds one.",
        f"<think>hm\n</think>{CODE}",
    ],
)
def test_parse_when_code_stands_in_any_form_then_its_text_is_the_same(text: str) -> None:
    assert one(text).content == CODE


def test_parse_when_there_are_two_blocks_then_both_are_found_in_order() -> None:
    answer = parse_answer(f"a.py:\n```python\n{CODE}```\nthen\n**b.py**\n```python\nimport a\n```")
    assert [block.path for block in answer.blocks] == ["a.py", "b.py"]


def test_parse_when_a_fence_was_not_closed_then_the_next_one_starts_a_block() -> None:
    answer = parse_answer(f"```python\n{CODE}```python\nprint(f(1))\n```")
    assert [block.content for block in answer.blocks] == [CODE, "print(f(1))\n"]


def test_parse_when_markdown_holds_fences_then_a_longer_fence_keeps_them() -> None:
    answer = parse_answer("````markdown\n# Title\n```python\nx = 1\n```\n````\n")
    assert [block.language for block in answer.blocks] == ["markdown"]
    assert "```python" in answer.blocks[0].content


def test_parse_when_the_answer_was_cut_off_then_the_block_says_so() -> None:
    assert not one("```python\ndef f(x):\n    return (x +").closed
    assert one(f"```python\n{CODE}```").closed


def test_parse_when_only_a_body_is_given_then_its_indentation_stays() -> None:
    assert one("    return x + 1\n").content == "    return x + 1\n"


def test_parse_when_there_is_no_code_then_all_is_explanation() -> None:
    answer = parse_answer("I can't do that.", "python")
    assert answer.blocks == ()
    assert answer.explanation == "I can't do that."


def test_parse_when_another_language_is_expected_then_unfenced_code_is_taken_to_the_end() -> None:
    assert one(f"Here:\n{JS}", "javascript").content == JS


def test_parse_when_code_is_unfenced_then_the_words_around_it_explain() -> None:
    answer = parse_answer(f"Here is the code:\n\n{CODE}\nIt adds one.", "python")
    assert answer.explanation == "Here is the code:\n\nIt adds one."


def test_parse_when_reasoning_is_unfinished_then_nothing_of_them_is_an_answer() -> None:
    assert parse_answer(f"<think>maybe\n```python\n{CODE}```").blocks == ()


@pytest.mark.parametrize("text", ["", "\n\n", "```", "```python\n```", "`" * 10_000, "\0" * 10])
def test_parse_when_there_is_nothing_then_there_are_no_blocks(text: str) -> None:
    assert parse_answer(text, "python").blocks == ()


def test_parse_when_the_text_is_deeply_nested_then_it_is_no_error() -> None:
    assert parse_answer("def f():\n    return " + "(" * 50_000, "python").text
    assert parse_answer("x = " + "-" * 50_000 + "1", "python").text
