"""One sandbox session: programs run in its workspace, files are put and read, one at a time."""

import asyncio
import functools
import itertools
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Generator,
    Iterator,
)
from contextlib import asynccontextmanager, contextmanager, suppress
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, TypeVar

from msgspec import Struct, structs

from appliance.domain.execution import RunRequest, RunResult, WorkspaceReport, WorkspaceTransfer
from appliance.domain.paths import PathSet
from appliance.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    PayloadTooLarge,
    QueueFull,
    SandboxUnavailable,
)
from appliance.sandbox.sessions import archive_edit, archive_index
from appliance.sandbox.sessions.archive_edit import FileAppender, NewFile
from appliance.sandbox.sessions.archive_index import ArchiveIndex, Entry, EntryKind
from appliance.sandbox.sessions.records import SessionRecord, SessionStore
from appliance.spi.cancellation import run_deferring_cancellation, run_to_completion
from appliance.spi.sandbox import RunWatcher
from appliance.spi.workspace_archive import max_archive_bytes

_WAIT_S = 300.0
_PIECES_AT_ONCE = 16
_CLOSED = "the session was closed"

T = TypeVar("T")
Run = Callable[[RunRequest, RunWatcher | None], Awaitable[RunResult]]


class FolderEntry(Struct, frozen=True):
    """An entry of a folder. `size` is a file's, in bytes, `target` where a symbolic link leads."""

    name: str
    kind: EntryKind
    size: int
    mtime_ns: int
    executable: bool
    target: str


class SandboxSession:
    """Operations wait for each other, at most `queue` at a time and each at most 300 s.

    A run sees the workspace as the last one left it. While one runs, its changes are not visible
    outside; they are kept at its end unless it is cancelled or runs out of memory, see
    `RunResult.workspace`. All methods raise Conflict once the session is closed.
    """

    def __init__(
        self, store: SessionStore, record: SessionRecord, clock: Callable[[], float], queue: int
    ) -> None:
        self.record = record
        self._store = store
        self._clock = clock
        self._queue = queue
        self._lock = asyncio.Lock()
        self._operations: set[asyncio.Task[Any]] = set()
        self._closed = False

    @property
    def busy(self) -> bool:
        return self._lock.locked()

    async def exec(
        self, run: Run, request: RunRequest, watcher: RunWatcher | None = None
    ) -> RunResult:
        """Run a program in the workspace by `run`, with its limits but those of the session.

        Cancelling the call kills it and leaves the workspace as it was. Raises what `run` raises,
        QueueFull, DeadlineExceeded, and Conflict if the session is closed meanwhile.
        """
        return await self._operate(lambda: self._exec(run, request, watcher))

    async def put(
        self, path: str, content: AsyncIterable[bytes], *, executable: bool = False
    ) -> int:
        """Add or replace a file; its size. Folders are created, links are not followed.

        Raises InvalidInput, and PayloadTooLarge if it exceeds the session's limits.
        """
        file = NewFile(PathSet().add("path", path), executable)
        return await self._operate(lambda: self._put(file, content))

    async def get(self, path: str) -> AsyncGenerator[bytes, None]:
        """The content of a file, in pieces; it stays the same while it is read.

        Raises NotFound, and InvalidInput if it is no file.
        """
        return _stream(*await self._operate(lambda: self._open(path)))

    async def list(self, folder: str = "") -> tuple[FolderEntry, ...]:
        """What a folder holds ("": the workspace), by name. Raises NotFound and InvalidInput."""
        return await self._operate(lambda: self._list(folder))

    async def close(self) -> None:
        """Kill what runs, and remove the files."""
        self._closed = True
        await self.interrupt()
        await asyncio.to_thread(self._remove)

    async def interrupt(self) -> None:
        """Cancel all operations and wait for their end."""
        operations = set(self._operations)
        for task in operations:
            task.cancel()
        if operations:
            await asyncio.wait(operations)

    # Operations

    async def _operate(self, operation: Callable[[], Awaitable[T]]) -> T:
        """Run an operation in its turn, as a task that `close` can cancel."""
        if len(self._operations) > self._queue:
            raise QueueFull(
                f"the session's queue is full ({self._queue} of {self._queue}); retry later"
            )
        task = asyncio.create_task(self._in_turn(operation))
        self._operations.add(task)
        try:
            await asyncio.wait({task})
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
            self._operations.discard(task)
        if task.cancelled() and self._closed:
            raise Conflict(_CLOSED)
        return task.result()

    async def _in_turn(self, operation: Callable[[], Awaitable[T]]) -> T:
        async with self._turn():
            try:
                result = await operation()
            except OSError as error:
                raise SandboxUnavailable(
                    f"the session's files can't be accessed ({error.strerror})"
                ) from error
            with suppress(OSError):  # only the time of its last use: a full disk can be read
                await self._commit(durable=False)
            return result

    @asynccontextmanager
    async def _turn(self) -> AsyncGenerator[None, None]:
        try:
            async with asyncio.timeout(_WAIT_S):
                await self._lock.acquire()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the session was busy for {_WAIT_S:.0f} s; retry later"
            ) from None
        try:
            if self._closed:
                raise Conflict(_CLOSED)
            yield
        finally:
            self._lock.release()

    async def _exec(self, run: Run, request: RunRequest, watcher: RunWatcher | None) -> RunResult:
        record = self.record
        limits = structs.replace(
            request.limits, workspace_bytes=record.max_bytes, workspace_files=record.max_files
        )
        with self._next_archive() as target:
            transfer = WorkspaceTransfer(str(target), str(self._archive), record.archive_bytes)
            request = structs.replace(request, workspace=transfer, limits=limits)
            result = await run(request, watcher)
            return await run_to_completion(self._adopt(result, target))

    async def _adopt(self, result: RunResult, target: Path) -> RunResult:
        """Make the archive that the run left the session's, unless it is malformed."""
        if result.workspace is None:
            raise SandboxUnavailable("the sandbox backend does not keep workspaces")
        if not result.workspace.saved:
            return result
        size = await asyncio.to_thread(os.path.getsize, target)
        try:
            index = await asyncio.to_thread(
                archive_index.read_index, target, size, self.record.max_files
            )
        except ValueError as error:
            report = WorkspaceReport(saved=False, problem=str(error))
            return structs.replace(result, workspace=report)
        await self._commit_archive(target, size, index)
        return result

    async def _put(self, file: NewFile, content: AsyncIterable[bytes]) -> int:
        record = self.record
        index = await self._read_index()
        parents = archive_edit.missing_parents(index, file.path)
        entries = {*index.entries, *parents, file.path}
        if len(entries) > record.max_files:
            raise PayloadTooLarge.at(
                "path", f"does not fit: the session has its {record.max_files} files"
            )
        if record.archive_bytes > max_archive_bytes(record.max_bytes, record.max_files):
            await self._compact(index)
            index = await self._read_index()
        room = archive_edit.room_for(index, file.path, record.max_bytes)
        with self._next_archive() as new:
            archive = self._archive if self.record.archive else new
            size = self.record.archive_bytes
            opening = asyncio.to_thread(FileAppender, archive, size, file, parents, room)
            size = await _append(opening, content)
            index = await asyncio.to_thread(
                archive_index.read_index, archive, size, self.record.max_files
            )
            await run_to_completion(self._commit_archive(archive, size, index))
        return index.entries[file.path].size

    async def _open(self, path: str) -> tuple[IO[bytes], Iterator[bytes]]:
        path = PathSet().add("path", path)
        entry = (await self._read_index()).entries.get(path)
        if entry is None:
            raise NotFound(f"path: there is no file {path!r} in the session")
        if entry.kind is not EntryKind.FILE:
            raise InvalidInput.at("path", f"{path!r} is a {entry.kind}, not a file")
        if entry.size > self.record.max_bytes:
            raise PayloadTooLarge.at("path", f"{path!r} has a size above the session's limit")
        file = await asyncio.to_thread(self._archive.open, "rb")
        return file, archive_index.read_content(file, entry, self.record.archive_bytes)

    async def _list(self, folder: str) -> tuple[FolderEntry, ...]:
        index = await self._read_index()
        path = PathSet().add("folder", folder) if folder else ""
        if path:
            entry = index.entries.get(path)
            if entry is None:
                raise NotFound(f"folder: there is no folder {path!r} in the session")
            if entry.kind is not EntryKind.FOLDER:
                raise InvalidInput.at("folder", f"{path!r} is a {entry.kind}, not a folder")
        children = sorted(index.children(path), key=itemgetter(0))
        return tuple(_describe(name, entry) for name, entry in children)

    # Files

    @property
    def _archive(self) -> Path:
        return self._store.folder(self.record.id) / self.record.archive

    @contextmanager
    def _next_archive(self) -> Generator[Path, None, None]:
        """The path of the next archive; removed at the end unless it has become the session's."""
        name = f"workspace-{self.record.generation + 1}"
        target = self._store.folder(self.record.id) / name
        try:
            yield target
        finally:
            if self._archive != target:
                with suppress(OSError):
                    target.unlink(missing_ok=True)

    async def _read_index(self) -> ArchiveIndex:
        record = self.record
        try:
            return await asyncio.to_thread(
                archive_index.read_index, self._archive, record.archive_bytes, record.max_files
            )
        except ValueError as error:
            raise SandboxUnavailable("the session's files are damaged; open a new one") from error

    async def _compact(self, index: ArchiveIndex) -> None:
        with self._next_archive() as target:
            # To its end, or it would write the file after its removal.
            compacting = asyncio.to_thread(
                archive_edit.compact, self._archive, self.record.archive_bytes, index, target
            )
            size = await run_to_completion(compacting)
            await run_to_completion(self._commit_archive(target, size, index))

    async def _commit_archive(self, archive: Path, size: int, index: ArchiveIndex) -> None:
        old = self._archive if self.record.archive else None
        self.record = structs.replace(
            self.record,
            generation=self.record.generation + (archive != old),
            archive=archive.name,
            archive_bytes=size,
            content_bytes=index.content_bytes,
            files=len(index.entries),
        )
        await self._commit(durable=True)
        if old is not None and old != archive:
            await asyncio.to_thread(functools.partial(old.unlink, missing_ok=True))

    async def _commit(self, *, durable: bool) -> None:
        self.record = structs.replace(self.record, last_used_at=self._clock())
        save = functools.partial(self._store.save, self.record, durable=durable)
        await run_to_completion(asyncio.to_thread(save))

    def _remove(self) -> None:
        with suppress(FileNotFoundError):
            self._store.remove(self.record.id)


async def _append(opening: Awaitable[FileAppender], content: AsyncIterable[bytes]) -> int:
    """Append the content; the archive's new size. The file is closed when this ends."""
    appender, cancelled = await run_deferring_cancellation(opening)
    try:
        if cancelled:
            raise asyncio.CancelledError
        async for piece in content:
            await asyncio.to_thread(appender.write, piece)
        return await asyncio.to_thread(appender.finish)
    finally:
        await run_to_completion(asyncio.to_thread(appender.close))


async def _stream(file: IO[bytes], pieces: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    with file:
        while piece := await asyncio.to_thread(_next_piece, pieces):
            yield piece


def _next_piece(pieces: Iterator[bytes]) -> bytes:
    """Some pieces at once, since each call costs a switch of threads; b"" at the end."""
    return b"".join(itertools.islice(pieces, _PIECES_AT_ONCE))


def _describe(name: str, entry: Entry) -> FolderEntry:
    executable = bool(entry.mode & 0o100) and entry.kind is EntryKind.FILE
    return FolderEntry(name, entry.kind, entry.size, entry.mtime_ns, executable, entry.target)
