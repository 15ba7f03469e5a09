"""From a model's answer to the files of a candidate."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from msgspec import Struct

from appliance.agents.code import languages, python_source, stubs
from appliance.agents.code.answer_parser import Answer, Block
from appliance.agents.code.stubs import Stub
from appliance.domain.tasks import SourceFile

_TEST_FRAMEWORKS = {"pytest", "unittest"}


class Aim(Struct, frozen=True):
    """What an answer has to become: where its main code belongs and what it defines.

    `files` are the caller's, which an answer may change or name; `main` is the path that the
    caller's tests import; `tested` the function that examples or a stub name.
    """

    language: str
    files: tuple[SourceFile, ...] = ()
    main: str | None = None
    stub: Stub | None = None
    tested: str | None = None
    writes_tests: bool = False


class Solution(Struct, frozen=True):
    """A candidate as files. `code` is the content of `main`, the file that matters most.

    Without code, both are None. `change` is the size of the change in characters: what is new
    and what is gone.
    """

    text: str
    explanation: str
    language: str | None = None
    main: str | None = None
    code: str | None = None
    files: tuple[SourceFile, ...] = ()
    tests: str | None = None
    change: int = 0


def build(answer: Answer, aim: Aim) -> Solution:
    """The files that the answer makes or changes; without any, a solution without code."""
    relevant = [block for block in answer.blocks if _is_relevant(block, aim)]
    tests = None if aim.writes_tests else _pick_tests(relevant)
    code = [block for block in relevant if block is not tests]
    main = _pick_main(code, aim)
    if main is None:
        return Solution(answer.text, answer.explanation or answer.text)
    path = _main_path(main, aim)
    content = _completed(_joined(main, code), path, aim)
    files = {block.path: block.content for block in code if block.path and block is not main}
    files[path] = content
    changed = _changed(files, aim.files)
    return Solution(
        text=answer.text,
        explanation=answer.explanation,
        language=languages.of_path(path) or main.language or aim.language,
        main=path,
        code=content,
        files=changed,
        tests=content if aim.writes_tests else (tests.content if tests else None),
        change=_size(changed, aim.files),
    )


def _is_relevant(block: Block, aim: Aim) -> bool:
    """Not the commands and outputs that an answer shows beside its code."""
    if block.path is not None or block.language == aim.language:
        return True
    if block.language is not None:
        return _related(block.language, aim.language)
    return aim.language != languages.PYTHON or python_source.parse(block.content) is not None


def _related(one: str, other: str) -> bool:
    """Languages that name the same family: JSX in a TypeScript task, C++ in a C task."""
    families = ({"javascript", "jsx", "typescript", "tsx"}, {"c", "cpp"})
    return any(one in family and other in family for family in families)


def _pick_tests(blocks: Sequence[Block]) -> Block | None:
    """The block that tests the others, where there are others."""
    tests = [block for block in blocks if is_test(block.path, block.content)]
    return tests[-1] if tests and len(tests) < len(blocks) else None


def is_test(path: str | None, content: str) -> bool:
    """Whether a file holds tests, by its name or by what it imports and defines."""
    name = PurePosixPath(path or "").name
    if (
        name.startswith("test_")
        or ".test." in name
        or ".spec." in name
        or name.endswith("_test.py")
    ):
        return True
    tree = python_source.parse(content) if path is None or name.endswith(".py") else None
    if tree is None:
        return False
    named = [name for name in python_source.definitions(tree) if name.lower().startswith("test")]
    return bool(named) and bool(_TEST_FRAMEWORKS & set(python_source.imported_modules(tree)))


def _pick_main(blocks: Sequence[Block], aim: Aim) -> Block | None:
    """The block that defines what is tested, else one that belongs to `main`, else the first."""
    defines = [block for block in blocks if _defines(block, aim)]
    named = [block for block in blocks if block.path is not None and block.path == aim.main]
    own = [block for block in blocks if block.language == aim.language]
    return next(iter([*named, *defines, *own, *blocks]), None)


def _defines(block: Block, aim: Aim) -> bool:
    wanted = aim.stub.name if aim.stub else aim.tested
    tree = python_source.parse(block.content) if wanted else None
    return tree is not None and wanted in python_source.definitions(tree)


def _joined(main: Block, blocks: Sequence[Block]) -> Block:
    """The main block with later unnamed ones of its language that define something new."""
    content = main.content
    for block in blocks[blocks.index(main) + 1 :]:
        if block.path is None and block.language == main.language and _adds(block.content, content):
            content += "\n\n" + block.content
    return Block(main.language, main.path, content, main.closed)


def _adds(later: str, earlier: str) -> bool:
    new, old = python_source.parse(later), python_source.parse(earlier)
    if new is None or old is None:
        return False
    added = python_source.definitions(new).keys()
    return bool(added) and not added & python_source.definitions(old).keys()


def _main_path(main: Block, aim: Aim) -> str:
    if aim.main is not None:
        return aim.main
    if main.path is not None:
        return main.path
    if aim.writes_tests:
        return _name_of_tests(aim)
    changed = _file_it_changes(main, aim.files)
    return changed or f"solution.{languages.extension(main.language or aim.language)}"


def _name_of_tests(aim: Aim) -> str:
    own = [file.path for file in aim.files if languages.of_path(file.path) == aim.language]
    extension = languages.extension(aim.language)
    stem = PurePosixPath(own[0]).stem if own else "solution"
    return (
        f"test_{stem}.{extension}"
        if aim.language == languages.PYTHON
        else f"{stem}.test.{extension}"
    )


def _file_it_changes(main: Block, files: Sequence[SourceFile]) -> str | None:
    """The caller's file that unnamed code rewrites: one that defines the same, or the only one."""
    extension_fits = [
        file
        for file in files
        if main.language is None or languages.of_path(file.path) == main.language
    ]
    tree = python_source.parse(main.content)
    if tree is not None:
        names = python_source.definitions(tree).keys()
        shared = [(len(names & _defined(file)), file.path) for file in extension_fits]
        best = max(shared, default=(0, ""))
        if best[0]:
            return best[1]
    return extension_fits[0].path if len(extension_fits) == 1 else None


def _defined(file: SourceFile) -> set[str]:
    tree = python_source.parse(file.content)
    return set(python_source.definitions(tree)) if tree else set()


def _completed(main: Block, path: str, aim: Aim) -> str:
    """The main file's whole content: cut-off ends removed, parts put into the caller's file."""
    content = main.content
    if (main.language or aim.language) != languages.PYTHON:
        return content
    if not main.closed and python_source.parse(content) is None:
        content = python_source.longest_valid_start(content) or content
    if aim.stub is not None:
        content = stubs.completed(aim.stub, content)
    elif aim.tested is not None:
        content = stubs.demonstrations_removed(content, aim.tested)
    original = next((file.content for file in aim.files if file.path == path), None)
    if original is not None and not aim.writes_tests:
        content = python_source.spliced(original, content) or content
    return content


def _changed(files: dict[str, str], given: Iterable[SourceFile]) -> tuple[SourceFile, ...]:
    """The files that are not the same as the caller sent them."""
    before = {file.path: file.content for file in given}
    return tuple(
        SourceFile(path, content)
        for path, content in sorted(files.items())
        if before.get(path) != content
    )


def _size(changed: Iterable[SourceFile], given: Iterable[SourceFile]) -> int:
    """Characters in the lines that were added or removed, wherever they stand."""
    before = {file.path: Counter(file.content.splitlines()) for file in given}
    total = 0
    for file in changed:
        old, new = before.get(file.path, Counter[str]()), Counter(file.content.splitlines())
        total += sum(len(line) * count for line, count in ((new - old) + (old - new)).items())
    return total
