"""How runs see the administrator's toolchains and the toolchain cache, in a real sandbox."""

import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec import structs

from appliance.domain import toolchain_cache
from appliance.domain.execution import Limits, RunRequest
from appliance.sandbox.languages import detection, recipes
from appliance.sandbox.languages.toolchain_cache import ToolchainCache
from plugins._shared.stage.backend import toolchain_cache_folder
from plugins.sandboxes.bubblewrap.backend import Bubblewrap
from tests.support.sandbox import GENEROUS
from tests.support.sandbox_service import plugin_context

pytest_plugins = ["tests.support.sandbox_fixtures"]
pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOW = recipes.LanguageRecipe(
    name="slow",
    aliases=(),
    extensions=("slow",),
    tool="sh",
    version="echo 1.2",
    run=f"cat {toolchain_cache.MOUNT_POINT}/slow/library/text",
    build="true",
    sample="",
    cache_command="mkdir library && echo works > library/text && ln -s / link && mkfifo pipe",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def backend_and_cache(sandbox_python: Path) -> AsyncIterator[tuple[Bubblewrap, Path]]:
    with tempfile.TemporaryDirectory() as folder:
        settings = {"toolchains": [_toolchain(Path(folder))]}
        context = structs.replace(plugin_context(sandbox_python, Path(folder)), settings=settings)
        context.data_dir.mkdir()
        backend = Bubblewrap(context)
        status = await backend.probe()
        if not status.available:
            pytest.skip(f"needs sandbox: {status.problem}. {status.remedy}")
        yield backend, context.data_dir / toolchain_cache.DIRECTORY
        await backend.close()


def _toolchain(folder: Path) -> str:
    program = folder / "chain" / "bin" / "sh"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/bash\necho of the toolchain\n")
    program.chmod(0o755)
    folder.chmod(0o755)
    return str(program.parent.parent)


@pytest.fixture
def one_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "RECIPES", (SLOW,))


async def test_program_of_a_toolchain_comes_before_the_systems(
    backend_and_cache: tuple[Bubblewrap, Path],
):
    result = await backend_and_cache[0].run(RunRequest(("sh",), limits=GENEROUS))

    assert result.stdout == b"of the toolchain\n"


@pytest.mark.usefixtures("one_recipe")
async def test_language_with_cached_artifacts_builds_them_once(
    backend_and_cache: tuple[Bubblewrap, Path],
):
    backend, folder = backend_and_cache
    runs: list[RunRequest] = []

    async def run(request: RunRequest):
        runs.append(request)
        words = ("/bin/sh", *request.argv[1:]) if request.argv[0] == "sh" else request.argv
        return await backend.run(structs.replace(request, argv=words))

    async def found() -> list[detection.LanguageTrial]:
        tried = detection.detect_languages(run, Limits(), {}, ["*"], ToolchainCache(folder))
        return [each async for each in tried]

    assert await found() == await found() == [detection.LanguageTrial("slow", "1.2")]
    assert sum("tarfile" in " ".join(request.argv) for request in runs) == 1
    names = sorted(path.name for path in folder.rglob("*"))
    assert names == [".version", "library", "slow", "text"]
    assert folder.joinpath("slow", "library", "text").read_bytes() == b"works\n"


async def test_run_can_not_change_the_cache(backend_and_cache: tuple[Bubblewrap, Path]):
    backend, folder = backend_and_cache
    (folder / "other").mkdir(exist_ok=True)
    script = f"touch {toolchain_cache.MOUNT_POINT}/other/mine {toolchain_cache.MOUNT_POINT}/new"

    result = await backend.run(RunRequest(("/bin/sh", "-c", script), limits=GENEROUS))

    assert not result.ok
    assert result.stderr.count(b"Read-only file system") == 2
    assert not list((folder / "other").iterdir())


async def test_cache_folder_when_the_data_directory_is_only_inspected_then_not_created(
    sandbox_python: Path, tmp_path: Path
):
    context = plugin_context(sandbox_python, tmp_path)
    inspected = structs.replace(context, toolchain_cache_dir=tmp_path / "others")

    assert toolchain_cache_folder(inspected) is None
    assert names_in(tmp_path) == []


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]
