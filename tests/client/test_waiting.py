"""imgeval.waiting: coroutines without an event loop, and workers that keep to one rule in threads and in asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Coroutine
from typing import Any

import pytest

from imgeval.waiting import EventLoop, Threads, Waiting, iterate, run

WAIT_S = 20.0


async def number(value: int) -> int:
    return value


def test_a_coroutine_that_never_suspends_runs_to_its_end() -> None:
    async def total() -> int:
        return await number(1) + await Threads().work(lambda value: value, 2)

    assert run(total()) == 3


def test_one_that_suspends_is_a_bug_and_is_said() -> None:
    async def suspends() -> None:
        await asyncio.sleep(0)

    with pytest.raises(RuntimeError, match="waits for an event loop"):
        run(suspends())


def test_leaving_an_iteration_ends_the_generator() -> None:
    ended = []

    async def numbers() -> AsyncGenerator[int, None]:
        try:
            for value in range(10):
                yield await number(value)
        finally:
            ended.append(True)

    assert list(iterate(numbers())) == list(range(10))
    stream = iterate(numbers())
    assert next(stream) == 0
    stream.close()  # type: ignore[attr-defined]
    assert ended == [True, True]


def in_threads(coroutine: Coroutine[Any, Any, Any]) -> None:
    run(coroutine)


def in_an_event_loop(coroutine: Coroutine[Any, Any, Any]) -> None:
    asyncio.run(coroutine)


@pytest.mark.parametrize(("waiting", "finish"), [(Threads(), in_threads), (EventLoop(), in_an_event_loop)])
def test_what_has_not_started_can_be_dropped_and_nothing_else(waiting: Waiting, finish: Any) -> None:
    started, release = threading.Event(), threading.Event()

    def block() -> str:
        started.set()
        assert release.wait(WAIT_S)
        return "done"

    async def check() -> None:
        workers = waiting.workers(1)
        first, second, third = (workers.submit(lambda: waiting.work(block)) for _ in range(3))
        while not started.is_set():
            await waiting.work(started.wait, 0.01)
        assert not first.cancel(), "under way"
        assert second.cancel()
        release.set()
        await workers.wait([first])
        assert first.result() == "done"
        await workers.wait([third])
        assert third.result() == "done"
        await workers.close()

    finish(check())


@pytest.mark.parametrize(("waiting", "finish"), [(Threads(), in_threads), (EventLoop(), in_an_event_loop)])
def test_what_a_worker_raises_is_in_its_future(waiting: Waiting, finish: Any) -> None:
    async def fail() -> None:
        raise ZeroDivisionError("of a call")

    async def check() -> None:
        workers = waiting.workers(2)
        future = workers.submit(fail)
        await workers.wait([future])
        assert isinstance(future.exception(), ZeroDivisionError)
        await workers.close()

    finish(check())
