"""Usage records of the gateway: reserved, settled, stored in batches, recovered after a crash."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from structlog.testing import capture_logs

from appliance.config.settings import PriceSettings, QuotaSettings
from appliance.domain.messages import Sampling, TokenUsage
from appliance.domain.models import ModelInfo, ModelState
from appliance.domain.tasks import AttemptId, Priority
from appliance.domain.usage import TaskCalls, UsageKind, UsageRecord, UsageStatus
from appliance.errors import RateLimited, Unavailable
from appliance.inference.request.call import Call, Caller
from appliance.inference.request.route import Route
from appliance.inference.request.token_estimate import TokenEstimate
from appliance.inference.usage import recorder as recorder_module
from appliance.inference.usage.pricing import Price, Prices
from appliance.inference.usage.recorder import StoredUsageRecorder
from appliance.services.completions.service import CompletionService
from appliance.store.sqlite.database import Database
from appliance.store.tables import usage_records
from tests.support.gateway_parts import (
    PERMANENT,
    Breaking,
    Scripted,
    answer,
    chat_spec,
    gateway_over,
    read_all,
    user,
)
from tests.support.polling import until

INFO = ModelInfo("m", "far", ModelState.READY, context_tokens=1000)
ROUTE = Route("far", "m", INFO)
CALL = Call(route=ROUTE, estimate=TokenEstimate(100, 50), caller=Caller("user:1", 1, 2))
PRICES = Prices({"far": Price(1_000_000.0, 2_000_000.0)})
NOW = 86400.0 * 20_000 + 5000.0


@pytest.fixture
async def db(tmp_path: Path) -> AsyncGenerator[Database, None]:
    database = await Database.open(tmp_path / "appliance.db")
    yield database
    await database.close()


async def opened(db: Database, now: float = NOW) -> StoredUsageRecorder:
    recorder = StoredUsageRecorder(db, PRICES, lambda: now, owner="this-server")
    await recorder.start()
    return recorder


async def stored(db: Database, user_id: int = 1) -> list[UsageRecord]:
    async with db.read() as connection:
        return await usage_records.list_for_user(connection, user_id, 0.0, 1000)


async def test_record_when_settled_then_stored_with_its_cost(db: Database) -> None:
    recorder = await opened(db)
    reserved = recorder.reserve(CALL, ROUTE)
    assert (reserved.status, reserved.reserved_cost) == (UsageStatus.RESERVED, 100 + 2 * 50)
    recorder.settle(reserved, TokenUsage(90, 10, 0), UsageStatus.COMPLETED, exact=True)
    await recorder.close()
    assert await stored(db) == [
        UsageRecord(
            key=reserved.key,
            owner="this-server",
            user_id=1,
            key_id=2,
            kind=UsageKind.CHAT,
            provider="far",
            model="m",
            status=UsageStatus.COMPLETED,
            started_at=NOW,
            prompt_tokens=90,
            completion_tokens=10,
            exact=True,
            reserved_cost=200.0,
            cost=110.0,
            seconds=0.0,
        )
    ]


async def test_records_when_many_end_at_once_then_few_transactions(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    store = usage_records.store

    async def counting(tx: Any, records: Any) -> None:
        batches.append(len(records))
        await store(tx, records)

    monkeypatch.setattr(usage_records, "store", counting)
    recorder = await opened(db)
    for _ in range(450):
        recorder.settle(
            recorder.reserve(CALL, ROUTE), TokenUsage(1, 1), UsageStatus.COMPLETED, exact=True
        )
    await recorder.close()
    assert len(await stored(db)) == 450
    assert len(batches) <= 4


async def test_record_when_it_runs_for_long_then_stored_as_reserved_and_settled_later(
    db: Database,
) -> None:
    recorder = await opened(db)
    reserved = recorder.reserve(CALL, ROUTE)
    await until(lambda: _statuses(db, [UsageStatus.RESERVED]))
    recorder.settle(reserved, TokenUsage(5, 5), UsageStatus.CANCELLED, exact=False)
    await until(lambda: _statuses(db, [UsageStatus.CANCELLED]))
    await recorder.close()


async def test_records_when_the_server_died_then_found_at_the_start_and_counted_as_reserved(
    db: Database,
) -> None:
    recorder = await opened(db)
    recorder.settle(
        recorder.reserve(CALL, ROUTE), TokenUsage(1, 2), UsageStatus.COMPLETED, exact=True
    )
    recorder.reserve(CALL, ROUTE)
    await recorder.close()
    later = StoredUsageRecorder(db, PRICES, lambda: NOW + 60, owner="this-server")
    spent = await later.start()
    assert [record.status for record in await stored(db)] == [
        UsageStatus.INTERRUPTED,
        UsageStatus.COMPLETED,
    ]
    assert [(item.provider, item.model, item.cost) for item in spent] == [("far", "m", 205.0)]
    await later.close()
    tomorrow = StoredUsageRecorder(db, PRICES, lambda: NOW + 86400)
    assert await tomorrow.start() == []
    await tomorrow.close()


async def test_records_when_two_servers_share_a_database_then_neither_changes_the_other_s(
    db: Database, tmp_path: Path
) -> None:
    beside = await Database.open(tmp_path / "appliance.db", exclusive=False)
    recorder = await opened(db)
    running = recorder.reserve(CALL, ROUTE)
    await until(lambda: _statuses(db, [UsageStatus.RESERVED]))
    other = StoredUsageRecorder(beside, PRICES, lambda: NOW, owner="other")
    await other.start()
    bob = structs.replace(CALL, caller=Caller("user:2", 2))
    other.settle(other.reserve(bob, ROUTE), TokenUsage(1, 0), UsageStatus.COMPLETED, exact=True)
    await other.close()
    recorder.settle(running, TokenUsage(5, 0), UsageStatus.COMPLETED, exact=True)
    await recorder.close()
    await beside.close()
    charges = [(r.user_id, r.cost) for user in (1, 2) for r in await stored(db, user)]
    assert charges == [(1, 5.0), (2, 1.0)]


async def test_records_of_a_task_when_it_ends_then_stored_with_its_end_and_never_again(
    db: Database,
) -> None:
    recorder = await opened(db)
    call = structs.replace(CALL, kind=UsageKind.TASK, task_calls=TaskCalls(AttemptId(7, 2)))
    first, second = recorder.reserve(call, ROUTE), recorder.reserve(call, ROUTE)
    recorder.settle(first, TokenUsage(5, 0), UsageStatus.COMPLETED, exact=True)
    async with db.write() as tx:
        await recorder.settle_task(tx, 7)
    assert [(r.task_id, r.attempt, r.call, r.status) for r in await stored(db)] == [
        (7, 2, 2, UsageStatus.INTERRUPTED),
        (7, 2, 1, UsageStatus.COMPLETED),
    ]
    recorder.settle(second, TokenUsage(1, 0), UsageStatus.CANCELLED, exact=True)
    await recorder.close()
    late = structs.replace(first, status=UsageStatus.FAILED, seconds=9.0, cost=99.0)
    async with db.write() as tx:
        await usage_records.store(tx, [first, late])
    assert [(r.call, r.status, r.cost) for r in await stored(db)] == [
        (2, UsageStatus.CANCELLED, 1.0),
        (1, UsageStatus.COMPLETED, 5.0),
    ]


async def test_task_when_it_ends_before_a_waiting_batch_then_its_usage_is_stored_with_its_end(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = asyncio.Event()

    @asynccontextmanager
    async def announced() -> AsyncGenerator[Any, None]:
        waiting.set()
        async with write() as tx:
            yield tx

    recorder = await opened(db)
    write = db.write
    call = structs.replace(CALL, kind=UsageKind.TASK, task_calls=TaskCalls(AttemptId(7, 1)))
    async with db.write() as tx:
        monkeypatch.setattr(db, "write", announced)
        settled = recorder.settle(
            recorder.reserve(call, ROUTE), TokenUsage(5, 0), UsageStatus.COMPLETED, exact=True
        )
        await waiting.wait()
        await recorder.settle_task(tx, 7)
        written = await tx.column("SELECT cost FROM usage_records WHERE task_id = 7")
    await recorder.close()
    assert written == [settled.cost] == [record.cost for record in await stored(db)]


async def test_records_when_the_disk_refuses_then_kept_and_stored_once_it_takes_them(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, broken, refusals = usage_records.store, [True], list[int]()

    async def refusing(tx: Any, records: Any) -> None:
        if broken[0]:
            refusals.append(len(records))
            raise Unavailable("the disk is full")
        await store(tx, records)

    monkeypatch.setattr(usage_records, "store", refusing)
    monkeypatch.setattr(recorder_module, "MAX_UNSTORED", 5)
    recorder = await opened(db)
    for _ in range(5):
        recorder.reserve(CALL, ROUTE)
    with pytest.raises(Unavailable, match="can't be recorded"):
        recorder.require_capacity()
    with capture_logs() as logs:
        await until(lambda: len(refusals) > 3)
    assert [entry["reason"] for entry in logs] == ["Unavailable: the disk is full"]
    broken[0] = False
    await recorder.close()
    assert len(await stored(db)) == 5
    recorder.require_capacity()


async def test_close_when_the_disk_refuses_to_the_end_then_it_ends_all_the_same(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refusing(tx: Any, records: Any) -> None:
        raise Unavailable("the disk is full")

    recorder = await opened(db)
    monkeypatch.setattr(usage_records, "store", refusing)
    recorder.reserve(CALL, ROUTE)
    async with asyncio.timeout(5):
        await recorder.close()


async def test_gateway_when_completions_end_in_every_way_then_each_is_on_record(
    db: Database,
) -> None:
    providers = [
        Scripted("one two", name="fine"),
        Breaking(1, "one two three four", name="breaking"),
        Scripted(PERMANENT, name="broken"),
        Scripted("one two three four", name="left"),
    ]
    gateway = gateway_over(*providers, db=db)
    await gateway.start()
    service = CompletionService(gateway)
    await answer(service, chat_spec(model="fine/model"))
    (breaking,) = await service.start(user(), chat_spec(model="breaking/model"))
    with pytest.raises(type(PERMANENT)):
        await read_all(breaking)
    await breaking.aclose()
    with pytest.raises(type(PERMANENT)):
        await service.start(user(), chat_spec(model="broken/model"))
    (left,) = await service.start(user(), chat_spec(model="left/model"))
    await left.aclose()
    route = await gateway.resolve("fine/model", None)
    async for _ in await gateway.start_for_task(
        route, chat_spec().messages, Sampling(), 5, "user:1", priority=Priority.BATCH
    ):
        pass
    await gateway.close()
    records = [(r.provider, r.status, r.kind, r.exact, r.key_id) for r in await stored(db)]
    assert sorted(records) == [
        ("breaking", "failed", "chat", False, 11),
        ("fine", "completed", "chat", True, 11),
        ("fine", "completed", "task", True, None),
        ("left", "cancelled", "chat", False, 11),
    ]


async def test_spend_limit_when_the_server_starts_again_then_todays_spend_still_counts(
    db: Database,
) -> None:
    sections: dict[str, Any] = {
        "prices": {"near/model": PriceSettings(input=1_000_000.0)},
        "quotas": {"near": QuotaSettings(spend_per_day=20.0)},
    }
    for expected in (None, RateLimited):
        gateway = gateway_over(Scripted("x"), db=db, **sections)
        await gateway.start()
        asked = chat_spec("five words are in here", max_tokens=1)
        if expected is None:
            for _ in range(2):
                await answer(CompletionService(gateway), asked)
        else:
            with pytest.raises(expected, match="a spend of 20 a day"):
                await answer(CompletionService(gateway), asked)
        await gateway.close()


async def _statuses(db: Database, expected: list[UsageStatus]) -> bool:
    return [record.status for record in await stored(db)] == expected
