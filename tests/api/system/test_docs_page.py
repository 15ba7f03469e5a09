"""/api/docs: complete, valid, and without external requests."""

import asyncio
import hashlib
import re
import threading
from importlib.resources import files
from typing import Any

import httpx
import pytest
from litestar._openapi.plugin import OpenAPIPlugin
from litestar.routes import HTTPRoute

from appliance.config.settings import ServerSettings, Settings
from tests.api.application import Api, settings_with

VENDORED: dict[str, str] = {
    "swagger-ui-bundle.js": "e6a898692f2d768e807c3ba4626068a69a2c5dd960dd6c76f3e4d3a3de180af2",
    "swagger-ui.css": "5ed08757e53da3e026d6cbecc61fe5d43585c9560b302d534ad56692519a273d",
    "LICENSE": "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30",
    "NOTICE": "0d20d1adef18aee3f40dd258172155521ce702ac445cb5f7b7d60ed32dad2fb2",
}
VENDORED["swagger-ui-bundle.js.LICENSE.txt"] = (
    "37eb6e7e59aed57b2c1acf076574b818ea07b74265717e0bd67b59e0baf9abbb"
)


@pytest.fixture
def settings(request: pytest.FixtureRequest) -> Settings:
    return settings_with(server=getattr(request, "param", ServerSettings()))


async def test_page_when_opened_then_everything_comes_from_the_server(api: Api) -> None:
    async with api.client(None) as client:
        page = await client.get("/api/docs")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
        assert len(links) == 6
        for link in links:
            if not link.startswith("data:"):
                assert link.startswith("/api/docs/")
                answer = await client.get(link)
                assert (answer.status_code, bool(answer.content)) == (200, True), link


async def test_docs_when_opened_at_once_then_built_once_outside_the_event_loop(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    build = OpenAPIPlugin._build_openapi  # pyright: ignore[reportPrivateUsage]

    def record(plugin: OpenAPIPlugin) -> Any:
        threads.append(threading.get_ident())
        return build(plugin)

    monkeypatch.setattr(OpenAPIPlugin, "_build_openapi", record)
    async with api.client(None) as client:
        paths = ["/api/docs", *["/api/docs/openapi.json"] * 3]
        answers = await asyncio.gather(*(client.get(path) for path in paths))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_page_when_opened_then_the_browser_refuses_other_hosts(api: Api) -> None:
    async with api.client(None) as client:
        page = await client.get("/api/docs")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "connect-src 'self'" in policy
    assert "http" not in policy
    assert "http" not in page.text
    assert "<script>" not in page.text


@pytest.mark.parametrize("name", ["docs.js", "docs.css", "swagger-ui.css"])
def test_files_when_read_then_no_address_of_another_host(name: str) -> None:
    text = asset(name).decode()
    assert not re.search(r"(@import|url\(\s*[\"']?(https?:)?//)", text)
    if name == "docs.js":
        assert "http" not in text
        assert "validatorUrl: null" in text


@pytest.mark.parametrize("name", VENDORED)
def test_vendored_file_when_read_then_as_its_makers_published_it(name: str) -> None:
    assert hashlib.sha256(asset(name)).hexdigest() == VENDORED[name]


async def test_asset_when_known_to_the_browser_then_304(api: Api) -> None:
    async with api.client(None) as client:
        path = "/api/docs/static/docs.js"
        tag = (await client.get(path)).headers["etag"]
        again = await client.get(path, headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["docs.html", "nothing.js", "..%2Fdocs.py", "%2e%2e"])
async def test_asset_when_not_of_the_page_then_404(name: str, api: Api) -> None:
    async with api.client(None) as client:
        assert (await client.get(f"/api/docs/static/{name}")).status_code == 404


@pytest.mark.parametrize("settings", [ServerSettings(docs=False)], indirect=True)
async def test_docs_when_turned_off_then_404(api: Api) -> None:
    async with api.client(None) as client:
        for path in ("/api/docs", "/api/docs/openapi.json", "/api/docs/static/docs.js", "/schema"):
            assert (await client.get(path)).status_code == 404


@pytest.fixture
async def document(client: httpx.AsyncClient) -> dict[str, Any]:
    answer = await client.get("/api/docs/openapi.json")
    assert answer.headers["content-type"].startswith("application/json")
    return answer.json()


async def test_openapi_when_read_then_every_route_is_in_it(
    api: Api, document: dict[str, Any]
) -> None:
    assert document["openapi"].startswith("3.1")
    for route in api.app.routes:
        # The standard has no words for a WebSocket.
        if isinstance(route, HTTPRoute) and not route.path.startswith("/api/docs"):
            operations = document["paths"][route.path_format]
            methods = {name.lower() for name in route.methods} - {"options", "head"}
            assert methods == set(operations) - {"parameters"}, route.path


async def test_openapi_when_read_then_every_reference_leads_somewhere(
    document: dict[str, Any],
) -> None:
    references = re.findall(r"'\$ref': '#/([^']+)'", str(document))
    assert references
    for reference in set(references):
        found: Any = document
        for part in reference.split("/"):
            found = found[part]


async def test_openapi_when_read_then_operations_are_named_described_and_secured(
    document: dict[str, Any],
) -> None:
    public = {"/api/v1/auth/login", "/api/v1/auth/refresh", "/api/v1/auth/keys/dev"}
    seen: set[str] = set()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["operationId"] not in seen
            seen.add(operation["operationId"])
            assert operation["description"], (method, path)
            assert operation["tags"], (method, path)
            open_to_all = path in public or not path.startswith(("/api/v1", "/api/v2", "/v1/"))
            assert (operation.get("security") == [{}]) is open_to_all, (method, path)
            if "{" in path:
                named = {each["name"] for each in operation["parameters"] if each["in"] == "path"}
                assert named == set(re.findall(r"{(\w+)}", path))


async def test_openapi_when_read_then_execute_tells_its_body_and_answer(
    document: dict[str, Any],
) -> None:
    operation = document["paths"]["/api/v1/execute"]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert body["$ref"].endswith("ExecuteBody")
    assert answer["$ref"].endswith("ExecuteAnswer")
    stream = document["paths"]["/api/v1/execute/stream"]["post"]["responses"]["200"]
    assert set(stream["content"]) == {"text/event-stream"}


def asset(name: str) -> bytes:
    return (files("appliance.api.system") / "static" / name).read_bytes()
