"""Builds a candidate's files from the model's answer."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from msgspec import Struct

from appliance.agents.code import languages, python_source, stubs, text_format
from appliance.agents.code.answer_parser import CodeBlock, ParsedAnswer
from appliance.agents.code.stubs import Stub
from appliance.domain.tasks import SourceFile

_TEST_FRAMEWORKS = {"pytest", "unittest"}


class AnswerTarget(Struct, frozen=True):
    """What the answer must contain: its language, the path of its main file, what it defines.

    `files` are the caller's, which an answer may change; `main` is the path that the caller's
    tests import; `tested` is the function that the examples or the stub name.
    """

    language: str
    files: tuple[SourceFile, ...] = ()
    main: str | None = None
    stub: Stub | None = None
    tested: str | None = None
    writes_tests: bool = False


class Solution(Struct, frozen=True):
    """A candidate as files. `code` is the content of the main file, `main` its path.

    Both are None where the answer holds no code. `change_size` counts the characters in added
    and removed lines.
    """

    text: str
    explanation: str
    language: str | None = None
    main: str | None = None
    code: str | None = None
    files: tuple[SourceFile, ...] = ()
    tests: str | None = None
    change_size: int = 0


def build_solution(answer: ParsedAnswer, target: AnswerTarget) -> Solution:
    """The files that the answer creates or changes; a solution without code if there are none."""
    relevant = [block for block in answer.blocks if _is_relevant(block, target)]
    tests = None if target.writes_tests else _pick_tests(relevant)
    code = [block for block in relevant if block is not tests]
    main = _pick_main(code, target)
    if main is None:
        return Solution(answer.text, answer.explanation or answer.text)
    path = _main_path(main, target)
    content = _complete_content(_join_definitions(main, code), path, target)
    files = {block.path: block.content for block in code if block.path and block is not main}
    files[path] = content
    before = {file.path: file.content for file in target.files}
    files = {
        name: text_format.restore_format(before[name], text) if name in before else text
        for name, text in files.items()
    }
    content = files[path]
    changed = _changed_files(files, target.files)
    return Solution(
        text=answer.text,
        explanation=answer.explanation,
        language=languages.detect_from_path(path) or main.language or target.language,
        main=path,
        code=content,
        files=changed,
        tests=content if target.writes_tests else (tests.content if tests else None),
        change_size=_change_size(changed, target.files),
    )


def _is_relevant(block: CodeBlock, target: AnswerTarget) -> bool:
    """False for shell commands and program output that an answer shows beside its code."""
    if block.path is not None or block.language == target.language:
        return True
    if block.language is not None:
        return _same_family(block.language, target.language)
    return (
        target.language != languages.PYTHON or python_source.parse_module(block.content) is not None
    )


def _same_family(one: str, other: str) -> bool:
    """Whether both are of one family: JSX in a TypeScript task, C++ in a C task."""
    families = ({"javascript", "jsx", "typescript", "tsx"}, {"c", "cpp"})
    return any(one in family and other in family for family in families)


def _pick_tests(blocks: Sequence[CodeBlock]) -> CodeBlock | None:
    """The last block of tests, if there are blocks beside it."""
    tests = [block for block in blocks if is_test(block.path, block.content)]
    return tests[-1] if tests and len(tests) < len(blocks) else None


def is_test(path: str | None, content: str) -> bool:
    """Whether a file holds tests, by its name or by its imports and definitions."""
    name = PurePosixPath(path or "").name
    if (
        name.startswith("test_")
        or ".test." in name
        or ".spec." in name
        or name.endswith("_test.py")
    ):
        return True
    tree = python_source.parse_module(content) if path is None or name.endswith(".py") else None
    if tree is None:
        return False
    tests = [name for name in python_source.definitions(tree) if name.lower().startswith("test")]
    return bool(tests) and bool(_TEST_FRAMEWORKS & set(python_source.imported_modules(tree)))


def _pick_main(blocks: Sequence[CodeBlock], target: AnswerTarget) -> CodeBlock | None:
    """The block for `main`, else one that defines what is tested, else one of the language."""
    defines = [block for block in blocks if _defines_tested_function(block, target)]
    at_main = [block for block in blocks if block.path is not None and block.path == target.main]
    own = [block for block in blocks if block.language == target.language]
    return next(iter([*at_main, *defines, *own, *blocks]), None)


def _defines_tested_function(block: CodeBlock, target: AnswerTarget) -> bool:
    name = target.stub.name if target.stub else target.tested
    tree = python_source.parse_module(block.content) if name else None
    return tree is not None and name in python_source.definitions(tree)


def _join_definitions(main: CodeBlock, blocks: Sequence[CodeBlock]) -> CodeBlock:
    """The main block joined with later unnamed blocks that only add definitions."""
    content = main.content
    for block in blocks[blocks.index(main) + 1 :]:
        if (
            block.path is None
            and block.language == main.language
            and _adds_definitions(block.content, content)
        ):
            content += "\n\n" + block.content
    return CodeBlock(main.language, main.path, content, main.closed)


def _adds_definitions(later: str, earlier: str) -> bool:
    new, old = python_source.parse_module(later), python_source.parse_module(earlier)
    if new is None or old is None:
        return False
    added = python_source.definitions(new).keys()
    return bool(added) and not added & python_source.definitions(old).keys()


def _main_path(main: CodeBlock, target: AnswerTarget) -> str:
    if target.main is not None:
        return target.main
    if main.path is not None:
        return main.path
    if target.writes_tests:
        return _test_file_name(target)
    changed = _find_changed_file(main, target.files)
    return changed or f"solution.{languages.extension(main.language or target.language)}"


def _test_file_name(target: AnswerTarget) -> str:
    own = [
        file.path
        for file in target.files
        if languages.detect_from_path(file.path) == target.language
    ]
    extension = languages.extension(target.language)
    stem = PurePosixPath(own[0]).stem if own else "solution"
    return (
        f"test_{stem}.{extension}"
        if target.language == languages.PYTHON
        else f"{stem}.test.{extension}"
    )


def _find_changed_file(main: CodeBlock, files: Sequence[SourceFile]) -> str | None:
    """The caller's file that unnamed code rewrites: it shares definitions, or is the only one."""
    extension_fits = [
        file
        for file in files
        if main.language is None or languages.detect_from_path(file.path) == main.language
    ]
    tree = python_source.parse_module(main.content)
    if tree is not None:
        names = python_source.definitions(tree).keys()
        shared = [(len(names & _defined_names(file)), file.path) for file in extension_fits]
        best = max(shared, default=(0, ""))
        if best[0]:
            return best[1]
    return extension_fits[0].path if len(extension_fits) == 1 else None


def _defined_names(file: SourceFile) -> set[str]:
    tree = python_source.parse_module(file.content)
    return set(python_source.definitions(tree)) if tree else set()


def _complete_content(main: CodeBlock, path: str, target: AnswerTarget) -> str:
    """The main file's content: a cut-off end removed, parts put into the caller's file."""
    content = main.content
    if (main.language or target.language) != languages.PYTHON:
        return content
    if not main.closed and python_source.parse_module(content) is None:
        content = python_source.longest_valid_prefix(content) or content
    if target.stub is not None:
        content = stubs.complete_stub(target.stub, content)
    elif target.tested is not None:
        content = stubs.remove_demonstrations(content, target.tested)
    original = next((file.content for file in target.files if file.path == path), None)
    if original is not None and not target.writes_tests:
        original = text_format.normalize(original)
        content = python_source.splice_definitions(original, content) or content
    return content


def _changed_files(
    files: dict[str, str], caller_files: Iterable[SourceFile]
) -> tuple[SourceFile, ...]:
    """The files that differ from what the caller sent."""
    before = {file.path: file.content for file in caller_files}
    return tuple(
        SourceFile(path, content)
        for path, content in sorted(files.items())
        if before.get(path) != content
    )


def _change_size(changed: Iterable[SourceFile], caller_files: Iterable[SourceFile]) -> int:
    """Characters in the lines that were added or removed, regardless of their position."""
    before = {file.path: Counter(file.content.splitlines()) for file in caller_files}
    total = 0
    for file in changed:
        old, new = before.get(file.path, Counter[str]()), Counter(file.content.splitlines())
        total += sum(len(line) * count for line, count in ((new - old) + (old - new)).items())
    return total
