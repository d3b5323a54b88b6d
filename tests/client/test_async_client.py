"""imgeval.AsyncClient: the same answers as Client's, from one core; cancelling reaches the server."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2 as pb

from imgeval import (
    AsyncClient,
    Client,
    Connection,
    DeadlineExceededError,
    InvalidInputError,
    Outcome,
    ServerFailedError,
    ServerUnavailableError,
)
from imgeval.embedded.server import EmbeddedServer
from imgeval.many import READ_AHEAD
from tests.fake_transport import DETAILS, FakeTransport
from tests.fake_triton import Handler, scoring, serving

WAIT_S = 20.0  # for what must happen; nothing is timed


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(coroutine, 2 * WAIT_S))


def by_length(image: bytes, prompt: str) -> dict[str, Any]:
    clip = {"raw": (len(image) + len(prompt)) / 100, "normalized": 0.1, "weight": 1.0, "model": "CLIP"}
    return {**DETAILS, "score": len(image) / 100, "metrics": {"clip": clip}}


# --- the same as Client ----------------------------------------------------------------------------------------------
def test_both_clients_have_the_same_methods_and_arguments() -> None:
    def arguments(kind: type, name: str) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(getattr(kind, name)).parameters.values()
        return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]

    public = {name for name in dir(Client) if not name.startswith("_")}
    assert public == {name for name in dir(AsyncClient) if not name.startswith("_")}
    for name in public - {"url", "transport"} | {"__init__"}:
        assert arguments(Client, name) == arguments(AsyncClient, name), name
    assert {"score", "score_many", "rank", "match", "matrix", "close"} <= public


def test_every_method_gives_what_the_other_client_gives(tmp_path: Path) -> None:
    (tmp_path / "dog.jpg").write_bytes(b"xxxx")
    images: list[Any] = [b"x", tmp_path / "dog.jpg", b"", "/nowhere", np.zeros((8, 8), np.uint8), 7]
    prompts = ["a dog", "", "a large dog"]
    sync, asked = FakeTransport(answer=by_length), FakeTransport(answer=by_length)

    async def all_of(client: AsyncClient) -> list[Any]:
        async with client:
            return [
                without_timing(await client.score(b"xx", "a dog", metrics=["clip"], label="dog")),
                [without_timing(each) async for each in client.score_many([(image, "a dog") for image in images])],
                without_timing(await client.rank("a dog", images)),
                without_timing(await client.match(b"x", prompts)),
                without_timing(await client.matrix(images, prompts, metrics=["clip", "iqa"])),
            ]

    with Client(transport=sync) as client:
        expected = [
            without_timing(client.score(b"xx", "a dog", metrics=["clip"], label="dog")),
            [without_timing(each) for each in client.score_many([(image, "a dog") for image in images])],
            without_timing(client.rank("a dog", images)),
            without_timing(client.match(b"x", prompts)),
            without_timing(client.matrix(images, prompts, metrics=["clip", "iqa"])),
        ]
    assert run(all_of(AsyncClient(transport=asked))) == expected
    assert sorted(str(call[:3]) for call in asked.calls) == sorted(str(call[:3]) for call in sync.calls)
    assert asked.closed


def without_timing(value: object) -> str:
    """As text, in which errors are equal too."""
    return re.sub(r"timing_ms=\{[^}]*\}", "", repr(value))


def test_both_clients_refuse_the_same() -> None:
    async def refused(method: str, *arguments: Any, **options: Any) -> str:
        try:
            await getattr(AsyncClient(transport=FakeTransport()), method)(*arguments, **options)
        except InvalidInputError as error:
            return str(error)
        return "not refused"

    for method, arguments, options in (
        ("score", (b"", "a dog"), {}),
        ("score", (b"x", " "), {}),
        ("score", (b"x", "a dog"), {"metrics": ["beauty"]}),
        ("score_many", ([],), {"concurrency": 0}),
        ("score_many", ([],), {"metrics": []}),
        ("rank", ("a dog", []), {}),
        ("rank", ("a dog", [b"x"]), {"by": "beauty"}),
        ("match", ("/nowhere", ["a dog"]), {}),
        ("matrix", ([b"x"], "a dog"), {}),
    ):
        with pytest.raises(InvalidInputError) as error:
            getattr(Client(transport=FakeTransport()), method)(*arguments, **options)
        assert run(refused(method, *arguments, **options)) == str(error.value)
    for kind in (Client, AsyncClient):
        with pytest.raises(InvalidInputError, match="timeout_s: got 0; allowed: more than 0"):
            kind(transport=FakeTransport(), timeout_s=0)


def test_client_takes_no_asynchronous_pairs() -> None:
    async def pairs() -> AsyncIterator[tuple[bytes, str]]:
        yield b"image", "a dog"

    with pytest.raises(InvalidInputError, match="pairs: got async_generator; allowed: an iterable"):
        list(Client(transport=FakeTransport()).score_many(pairs()))  # type: ignore[arg-type]


def test_client_works_inside_a_running_event_loop() -> None:
    async def inside() -> int:
        client = Client(transport=FakeTransport())
        first = next(client.score_many([(b"image", "a dog")] * 20))
        assert first.index == 0
        return len(list(client.score_many([(b"image", "a dog")] * 20)))

    assert run(inside()) == 20


# --- many pairs ------------------------------------------------------------------------------------------------------
@given(
    delays_ms=st.lists(st.integers(0, 3), max_size=30),
    concurrency=st.integers(1, 5),
    ordered=st.booleans(),
    failing=st.sets(st.integers(0, 29)),
    asynchronous=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_every_pair_has_one_outcome_and_no_more_are_held_than_allowed(
    delays_ms: list[int], concurrency: int, ordered: bool, failing: set[int], asynchronous: bool
) -> None:
    lock = threading.Lock()
    under_way = most_under_way = read = most_held = 0
    found: list[Outcome] = []

    def answer(image: bytes, prompt: str) -> dict[str, Any]:
        nonlocal under_way, most_under_way
        with lock:
            under_way += 1
            most_under_way = max(most_under_way, under_way)
        threading.Event().wait(delays_ms[int(prompt)] / 1e3)
        with lock:
            under_way -= 1
        if int(prompt) in failing:
            raise ServerFailedError(f"failed {prompt}")
        return {**DETAILS, "score": int(prompt) / 100}

    def pairs() -> Iterator[tuple[bytes, str]]:
        nonlocal read, most_held
        for index in range(len(delays_ms)):
            read += 1
            most_held = max(most_held, read - len(found))
            yield b"image", str(index)

    async def pairs_later() -> AsyncIterator[tuple[bytes, str]]:
        for pair in pairs():
            await asyncio.sleep(0)
            yield pair

    async def collect() -> None:
        client = AsyncClient(transport=FakeTransport(answer=answer))
        source = pairs_later() if asynchronous else pairs()
        async for outcome in client.score_many(source, concurrency=concurrency, ordered=ordered):
            found.append(outcome)

    run(collect())
    indices = [outcome.index for outcome in found]
    assert sorted(indices) == list(range(len(delays_ms)))
    assert not ordered or indices == sorted(indices)
    assert most_under_way <= concurrency
    assert most_held <= READ_AHEAD * concurrency
    for outcome in found:
        if outcome.index in failing:
            assert (outcome.result, str(outcome.error)) == (None, f"failed {outcome.index}")
        else:
            assert outcome.result is not None and outcome.result.score == outcome.index / 100


@pytest.mark.parametrize("ordered", [True, False])
def test_no_server_ends_everything_after_what_is_under_way(ordered: bool) -> None:
    failing = threading.Event()

    def answer(image: bytes, prompt: str) -> dict[str, Any]:
        if prompt == "1":
            failing.set()
            raise ServerUnavailableError("gone")
        if prompt == "2":
            assert failing.wait(WAIT_S)
        return DETAILS

    read, found = 0, []

    async def pairs() -> AsyncIterator[tuple[bytes, str]]:
        nonlocal read
        for index in range(1_000_000):
            read += 1
            yield b"image", str(index)

    async def collect() -> None:
        client = AsyncClient(transport=FakeTransport(answer=answer))
        async for outcome in client.score_many(pairs(), concurrency=3, ordered=ordered):
            found.append(outcome.index)

    with pytest.raises(ServerUnavailableError, match="gone"):
        run(collect())
    assert 1 not in found
    assert {0, 2} <= set(found)
    assert read < 1000


def test_what_the_source_raises_comes_after_the_outcomes_of_what_it_gave() -> None:
    found = []

    async def pairs() -> AsyncIterator[tuple[bytes, str]]:
        yield b"image", "a dog"
        yield b"image", "a cat"
        raise ZeroDivisionError("in the source")

    async def collect() -> None:
        async for outcome in AsyncClient(transport=FakeTransport()).score_many(pairs()):
            found.append(outcome.index)

    with pytest.raises(ZeroDivisionError, match="in the source"):
        run(collect())
    assert found == [0, 1]


# --- cancelling ------------------------------------------------------------------------------------------------------
class Slow:
    """A handler that waits until its call has ended, and counts."""

    def __init__(self) -> None:
        self.asked, self.ended = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, request: Any, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        over = threading.Event()
        context.add_callback(over.set)
        self.asked.release()
        assert over.wait(WAIT_S)
        self.ended.release()
        return pb.ModelInferResponse()


async def happens(semaphore: threading.Semaphore) -> bool:
    return await asyncio.to_thread(semaphore.acquire, timeout=WAIT_S)


def test_cancelling_a_task_ends_the_call_on_the_server() -> None:
    slow = Slow()

    async def cancel(url: str) -> None:
        async with AsyncClient(url) as client:
            task = asyncio.create_task(client.score(b"image", "a dog"))
            assert await happens(slow.asked)
            assert not slow.ended.acquire(blocking=False)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await happens(slow.ended), "the server was not told"

    with serving(slow) as url:
        run(cancel(url))


def test_leaving_many_ends_the_calls_that_are_under_way() -> None:
    slow = Slow()
    quick = scoring(DETAILS)

    def handler(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        first = request.raw_input_contents[1].endswith(b"first")
        return quick(request, context) if first else slow(request, context)

    async def leave(url: str) -> None:
        before = asyncio.all_tasks()
        async with AsyncClient(url) as client:
            pairs = [(b"image", "first"), *[(b"image", "a dog")] * 9]
            async with aclosing(client.score_many(pairs, concurrency=3)) as outcomes:
                async for outcome in outcomes:
                    assert outcome.index == 0
                    for _ in range(3):
                        assert await happens(slow.asked)
                    break
            for _ in range(3):
                assert await happens(slow.ended)
            assert asyncio.all_tasks() == before, "nothing is left"

    with serving(handler) as url:
        run(leave(url))
    assert not slow.asked.acquire(blocking=False)


def test_cancelling_rank_ends_its_calls() -> None:
    slow = Slow()

    async def cancel(url: str) -> None:
        async with AsyncClient(url) as client:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(client.rank("a dog", [b"1", b"2"]), 0.5)
            assert await happens(slow.ended)
            assert await happens(slow.ended)

    with serving(slow) as url:
        run(cancel(url))


def test_closing_ends_what_is_under_way() -> None:
    slow = Slow()

    async def close(url: str) -> None:
        client = AsyncClient(url)
        task = asyncio.create_task(client.score(b"image", "a dog"))
        assert await happens(slow.asked)
        await client.close()
        with pytest.raises(ServerUnavailableError, match="was closed"):
            await task
        assert await happens(slow.ended)
        with pytest.raises(ServerUnavailableError, match="was closed"):
            await client.score(b"image", "a dog")

    with serving(slow) as url:
        run(close(url))


# --- servers that fail -----------------------------------------------------------------------------------------------
def refuse(request: Any, context: grpc.ServicerContext) -> pb.ModelInferResponse:
    context.abort(grpc.StatusCode.INVALID_ARGUMENT, "in ensemble 'imgeval', preprocess: IMAGE: got nonsense")


def answer_nothing(request: Any, context: grpc.ServicerContext) -> pb.ModelInferResponse:
    return pb.ModelInferResponse()


@pytest.mark.parametrize(
    ("handler", "kind", "problem"),
    [
        (refuse, InvalidInputError, "^IMAGE: got nonsense"),
        (answer_nothing, ServerFailedError, "left out the output DETAILS"),
        (Slow(), DeadlineExceededError, r"no answer within 0\.3 s"),
    ],
)
def test_failures_are_those_of_client(handler: Handler, kind: type[Exception], problem: str) -> None:
    async def score(url: str) -> None:
        async with AsyncClient(url, timeout_s=0.3) as client:
            await client.score(b"image", "a dog")

    with serving(handler) as url:
        with pytest.raises(kind, match=problem):
            run(score(url))
        with pytest.raises(kind, match=problem), Client(url, timeout_s=0.3) as client:
            client.score(b"image", "a dog")


def test_no_server_and_a_wrong_token(unused_port: int) -> None:
    async def score(connection: Connection) -> None:
        async with AsyncClient(connection) as client:
            await client.score(b"image", "a dog")

    with pytest.raises(ServerUnavailableError, match="no server at"):
        run(score(Connection(f"127.0.0.1:{unused_port}")))
    with (
        serving(scoring(DETAILS), authorization="Bearer right") as url,
        pytest.raises(ServerUnavailableError, match="refused the authorization given"),
    ):
        run(score(Connection(url, token="wrong")))


# --- the real server -------------------------------------------------------------------------------------------------
def test_the_real_server_gives_both_the_same(server: EmbeddedServer, client: Client, photos: dict[str, bytes]) -> None:
    pairs = [(photo, "a cup of coffee") for photo in photos.values()]

    async def scores() -> list[float | None]:
        async with AsyncClient(server.url) as asynchronous:
            found = [outcome async for outcome in asynchronous.score_many(pairs, metrics=["clip"], concurrency=3)]
            best = await asynchronous.rank("a cup of coffee", list(photos.values()), by="clip")
            assert list(photos)[best.rows[0].outcome.index] == "coffee.png"
            return [outcome.result and outcome.result.metrics["clip"].raw for outcome in found]

    expected = [client.score(photo, prompt, metrics=["clip"]).metrics["clip"].raw for photo, prompt in pairs]
    assert run(scores()) == pytest.approx(expected)
