"""Two ways to wait, so that everything that waits is written once.

What the clients do (`core.py`, `many.py`, `compare.py`) is `async def` throughout and waits only by one of these two
classes. `Threads` blocks the caller's thread and never suspends, so a coroutine that waits by it needs no event loop:
`run` takes it from its beginning to its end in one step. `EventLoop` suspends in asyncio, and cancelling the task that
waits cancels the remote call.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Callable,
    Collection,
    Coroutine,
    Iterable,
    Iterator,
)
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any, Protocol, TypeVar

from numpy.typing import NDArray

from imgeval.errors import InvalidInputError
from imgeval.transport import Arrays, Transport

T = TypeVar("T")
Answer = dict[str, NDArray[Any]]


class Waiting(Protocol):
    """How to wait for a server, for work of this machine, and for a caller's values."""

    async def check_ready(self, transport: Transport, model: str, timeout_s: float) -> None: ...

    async def infer(
        self, transport: Transport, model: str, inputs: Arrays, outputs: tuple[str, ...], timeout_s: float
    ) -> Answer: ...

    async def work(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call a function that reads a file or computes."""

    def values(self, source: Iterable[T] | AsyncIterable[T]) -> AsyncIterator[T]:
        """A caller's values, one by one, each read when it is asked for."""

    def workers(self, concurrency: int) -> Workers: ...


class Workers(Protocol):
    """Run coroutine functions, at most so many at once, in the order in which they were submitted.

    The future's `cancel` drops one that has not started, and returns False for one that has.
    """

    def submit(self, call: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]: ...

    async def wait(self, futures: Collection[Future[Any]]) -> None:
        """Until one of them has ended."""

    async def close(self) -> None:
        """Drop what has not started."""


# --- threads ---------------------------------------------------------------------------------------------------------
def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits by `Threads`."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise RuntimeError("a coroutine that waits for an event loop was run without one")


def iterate(stream: AsyncGenerator[T, None]) -> Iterator[T]:
    """The values of an asynchronous generator that waits by `Threads`."""
    try:
        while True:
            try:
                value = run(stream.__anext__())
            except StopAsyncIteration:
                return
            yield value
    finally:
        run(stream.aclose())


class Threads:
    """Wait in the caller's thread; several calls at once are as many threads."""

    async def check_ready(self, transport: Transport, model: str, timeout_s: float) -> None:
        transport.check_ready(model, timeout_s)

    async def infer(
        self, transport: Transport, model: str, inputs: Arrays, outputs: tuple[str, ...], timeout_s: float
    ) -> Answer:
        return transport.infer(model, inputs, outputs, timeout_s)

    async def work(self, function: Callable[..., T], *arguments: Any) -> T:
        return function(*arguments)

    async def values(self, source: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
        if not isinstance(source, Iterable):
            raise InvalidInputError("pairs", f"got {type(source).__name__}; allowed: an iterable, no asynchronous one")
        for value in source:
            yield value

    def workers(self, concurrency: int) -> Workers:
        return _ThreadWorkers(concurrency)


class _ThreadWorkers:
    def __init__(self, concurrency: int) -> None:
        self._pool = ThreadPoolExecutor(concurrency, thread_name_prefix="imgeval")

    def submit(self, call: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        return self._pool.submit(lambda: run(call()))

    async def wait(self, futures: Collection[Future[Any]]) -> None:
        wait(futures, return_when=FIRST_COMPLETED)

    async def close(self) -> None:
        # Not waited for: what is under way ends with its deadline, or with `Client.close`, and nobody asks for it.
        self._pool.shutdown(wait=False, cancel_futures=True)


# --- asyncio ---------------------------------------------------------------------------------------------------------
class EventLoop:
    """Wait in asyncio; several calls at once are as many tasks. Files are read and images encoded by threads."""

    async def check_ready(self, transport: Transport, model: str, timeout_s: float) -> None:
        await asyncio.wrap_future(transport.start_check_ready(model, timeout_s))

    async def infer(
        self, transport: Transport, model: str, inputs: Arrays, outputs: tuple[str, ...], timeout_s: float
    ) -> Answer:
        return await asyncio.wrap_future(transport.start_infer(model, inputs, outputs, timeout_s))

    async def work(self, function: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.to_thread(function, *arguments)

    async def values(self, source: Iterable[T] | AsyncIterable[T]) -> AsyncGenerator[T, None]:
        if isinstance(source, AsyncIterable):
            async for value in source:
                yield value
        else:
            for value in source:
                yield value

    def workers(self, concurrency: int) -> Workers:
        return _TaskWorkers(concurrency)


class _TaskWorkers:
    def __init__(self, concurrency: int) -> None:
        self._slots = asyncio.Semaphore(concurrency)
        self._tasks: dict[Future[Any], asyncio.Task[None]] = {}

    def submit(self, call: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        future: Future[T] = Future()
        self._tasks[future] = asyncio.create_task(self._fulfil(future, call))
        return future

    async def _fulfil(self, future: Future[T], call: Callable[[], Coroutine[Any, Any, T]]) -> None:
        try:
            async with self._slots:
                if future.set_running_or_notify_cancel():
                    try:
                        future.set_result(await call())
                    except BaseException as error:
                        future.set_exception(error)
                        if not isinstance(error, Exception):
                            raise
        finally:
            del self._tasks[future]

    async def wait(self, futures: Collection[Future[Any]]) -> None:
        if not any(future.done() for future in futures):
            await asyncio.wait([self._tasks[future] for future in futures], return_when=asyncio.FIRST_COMPLETED)

    async def close(self) -> None:
        """Also ends the calls that are under way, on the server too."""
        left = list(self._tasks.values())
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
