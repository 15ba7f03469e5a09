"""A package index and file server with the real simple API, and configurable faults."""

import hashlib
import io
import json
import re
import threading
import zipfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

JSON_PAGE = "application/vnd.pypi.simple.v1+json"


def wheel(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A wheel that holds these files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


class PackageServer:
    """What the server serves, the requests it received, and its faults.

    `files` are served at /files/NAME, packages at /simple/NAME/. `cut_after` closes
    the next connections after so many bytes each; `status` is the status of every response.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.files: dict[str, bytes] = {}
        self.packages: dict[str, list[dict[str, Any]]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.cut_after: list[int] = []
        self.status = 200
        self.html = False
        self.etag = '"one"'
        self.redirect = ""

    def publish(self, filename: str, content: bytes, **changes: Any) -> None:
        """Put a wheel on the index; `changes` replace fields of its index entry."""
        self.files[filename] = content
        package = re.sub(r"[-_.]+", "-", filename.split("-", 1)[0]).lower()
        entry = {
            "filename": filename,
            "url": f"../../files/{filename}",
            "hashes": {"sha256": hashlib.sha256(content).hexdigest()},
            "size": len(content),
            "yanked": False,
        }
        self.packages.setdefault(package, []).append(entry | changes)

    @property
    def index(self) -> str:
        return f"{self.url}/simple"

    def file_url(self, name: str) -> str:
        return f"{self.url}/files/{name}"

    def headers_of(self, path: str) -> list[dict[str, str]]:
        """The headers of each request for a path."""
        return [
            headers for url_path, headers in self.requests if url_path.partition("?")[0] == path
        ]


@contextmanager
def package_server() -> Generator[PackageServer]:
    """A running server on a free loopback port."""
    http = _Server(("127.0.0.1", 0), _Handler)
    server = http.packages
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        thread.join(5)
        http.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: tests close connections on purpose."""

    def server_activate(self) -> None:
        super().server_activate()
        self.packages = PackageServer(f"http://127.0.0.1:{self.server_address[1]}")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _packages(self) -> PackageServer:
        return cast("_Server", self.server).packages

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        headers = {name.lower(): value for name, value in self.headers.items()}
        self._packages.requests.append((self.path, headers))
        if self._packages.status != 200:
            self._answer(self._packages.status, b"no", {})
        elif self._packages.redirect and path.startswith("/moved/"):
            self._answer(302, b"", {"Location": self._packages.redirect})
        elif path.startswith("/simple/"):
            self._page(path.split("/")[2])
        elif path.startswith("/files/") and path[7:] in self._packages.files:
            self._file(self._packages.files[path[7:]], headers)
        else:
            self._answer(404, b"not found", {})

    def _page(self, package: str) -> None:
        entries = self._packages.packages.get(package)
        if entries is None:
            self._answer(404, b"not found", {})
        elif self._packages.html:
            links = "".join(_link(entry) for entry in entries)
            page = f"<!DOCTYPE html><html><body>{links}</body></html>"
            self._answer(200, page.encode(), {"Content-Type": "text/html; charset=utf-8"})
        else:
            page = json.dumps({"meta": {"api-version": "1.0"}, "name": package, "files": entries})
            self._answer(200, page.encode(), {"Content-Type": JSON_PAGE})

    def _file(self, content: bytes, headers: dict[str, str]) -> None:
        etag = {"ETag": self._packages.etag} if self._packages.etag else {}
        offset = re.fullmatch(r"bytes=(\d+)-", headers.get("range", ""))
        if offset is None or headers.get("if-range") != self._packages.etag:
            self._answer(200, content, etag)
            return
        start = int(offset[1])
        if start >= len(content):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        extent = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._answer(206, content[start:], etag | {"Content-Range": extent})

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self._packages.cut_after and self.path.startswith("/files/"):
            self.wfile.write(content[: self._packages.cut_after.pop(0)])
            self.close_connection = True
        else:
            self.wfile.write(content)


def _link(entry: Mapping[str, Any]) -> str:
    yanked = ' data-yanked="broken"' if entry["yanked"] else ""
    digest = entry["hashes"].get("sha256")
    fragment = f"#sha256={digest}" if digest else ""
    return f'<a href="{entry["url"]}{fragment}"{yanked}>{entry["filename"]}</a><br/>\n'
