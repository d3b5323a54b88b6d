"""imgeval.shared_memory: on the real server, then on servers that refuse it, forget it, or never answer."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb

from imgeval import (
    AsyncClient,
    Client,
    Connection,
    DeadlineExceededError,
    ImgevalError,
    InvalidInputError,
    ServerFailedError,
    ServerUnavailableError,
    shared_memory,
)
from imgeval.embedded.server import EmbeddedServer
from imgeval.shared_memory import MAX_LOST, Regions
from tests.fake_transport import DETAILS
from tests.fake_triton import Servicer, scoring, serving

WAIT_S = 20.0
PICTURE = np.random.default_rng(1).integers(0, 256, (400, 400, 3), np.uint8)  # 480 kB as PNG


def regions_here() -> set[str]:
    return set(os.listdir("/dev/shm"))


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = regions_here()
    yield
    assert regions_here() <= before


def registered(url: str) -> set[str]:
    with triton.InferenceServerClient(url) as direct:
        return set(direct.get_system_shared_memory_status().regions)


def raws(result: Any) -> dict[str, float]:
    return {name: metric.raw for name, metric in result.metrics.items()}


# --- the real server -------------------------------------------------------------------------------------------------
def test_the_values_are_those_of_a_message(server: EmbeddedServer, client: Client) -> None:
    before = registered(server.url)
    pairs = [(PICTURE, f"picture number {number}") for number in range(6)]
    with Client(Connection(server.url, shared_memory=True)) as sharing:
        found = list(sharing.score_many(pairs, metrics=["clip", "iqa"], concurrency=3))
        ours = registered(server.url) - before
        assert 1 <= len(ours) <= 3, "they are used again"
        with pytest.raises(InvalidInputError, match="unreadable"):
            sharing.score(bytes(100_000), "a dog")
        whole = sharing.score(PICTURE, "noise")
    assert registered(server.url) == before
    for outcome, (image, prompt) in zip(found, pairs, strict=True):
        assert outcome.result is not None, outcome.error
        assert raws(outcome.result) == raws(client.score(image, prompt, metrics=["clip", "iqa"]))
    assert raws(whole) == raws(client.score(PICTURE, "noise"))


def test_images_of_every_size(server: EmbeddedServer, client: Client, photos: dict[str, bytes], tmp_path: Path) -> None:
    large = tmp_path / "large.bmp"
    from PIL import Image

    Image.fromarray(np.tile(PICTURE, (4, 4, 1))).save(large)  # 7.7 MB

    async def score() -> list[Any]:
        async with AsyncClient(Connection(server.url, shared_memory=True)) as sharing:
            pairs = [(image, "a picture") for image in (*photos.values(), large, PICTURE, large)]
            return [outcome.result async for outcome in sharing.score_many(pairs, metrics=["clip"])]

    found = asyncio.run(score())
    assert raws(found[-1]) == raws(client.score(large, "a picture", metrics=["clip"]))
    assert raws(found[0]) == raws(client.score(photos["astronaut.png"], "a picture", metrics=["clip"]))


# --- other servers ---------------------------------------------------------------------------------------------------
class Sharing(Servicer):
    """Registers what it is told to, or says why not."""

    refusal = ""

    def SystemSharedMemoryRegister(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - gRPC's
        if self.refusal:
            context.abort(grpc.StatusCode.INTERNAL, self.refusal)
        return pb.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - gRPC's
        return pb.SystemSharedMemoryUnregisterResponse()


class Elsewhere(Sharing):
    refusal = "Unable to open shared memory region:\n'/psm_1'"


def score(url: str, timeout_s: float = WAIT_S) -> None:
    with Client(Connection(url, shared_memory=True), timeout_s=timeout_s) as client:
        client.score(PICTURE, "a dog")


def test_a_server_that_cannot_use_it_is_said_and_nothing_is_sent_otherwise() -> None:
    asked: list[int] = []

    def handler(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        asked.append(1)
        return scoring(DETAILS)(request, context)

    for servicer, reason in ((Elsewhere, "Unable to open shared memory region: '/psm_1'"), (Servicer, "Method not")):
        with serving(handler, servicer=servicer) as url, pytest.raises(ServerUnavailableError) as failed:
            score(url)
        assert f"the server at {url} cannot use shared memory: {reason}" in str(failed.value)
        assert "\n" not in str(failed.value)
    assert not asked


def test_a_server_that_was_restarted_is_told_anew() -> None:
    lost = [True]

    def handler(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        if lost.pop() if lost else False:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Unable to find shared memory region: 'psm_1'")
        return scoring(DETAILS)(request, context)

    with (
        serving(handler, servicer=Sharing) as url,
        Client(Connection(url, shared_memory=True)) as client,
    ):
        before = regions_here()
        with pytest.raises(ServerFailedError, match="was restarted and has lost the image"):
            client.score(PICTURE, "a dog")
        assert regions_here() == before
        assert client.score(PICTURE, "a dog").score == 0.4


def test_memory_of_a_call_without_an_answer_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "MAX_LOST", 2)
    used: list[str] = []
    release = threading.Event()

    def wait(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        used.append(request.inputs[0].parameters["shared_memory_region"].string_param)
        release.wait(WAIT_S)
        return pb.ModelInferResponse()

    with (
        serving(wait, servicer=Sharing) as url,
        Client(Connection(url, shared_memory=True), timeout_s=0.3) as client,
    ):
        for _ in range(2):
            with pytest.raises(DeadlineExceededError):
                client.score(PICTURE, "a dog")
        with pytest.raises(ServerFailedError, match="2 calls ended without an answer"):
            client.score(PICTURE, "a dog")
        release.set()
    assert len(set(used)) == 2


@pytest.mark.parametrize("small", [b"image", bytes(60_000)])
def test_what_is_small_goes_in_the_message(small: bytes) -> None:
    def handler(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        assert request.raw_input_contents[0][4:] == small
        return scoring(DETAILS)(request, context)

    with serving(handler, servicer=Sharing) as url, Client(Connection(url, shared_memory=True)) as client:
        assert client.score(small, "a dog").score == 0.4


def test_closing_during_a_call_leaves_nothing() -> None:
    asked = threading.Event()

    def wait(request: Any, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        over = threading.Event()
        context.add_callback(over.set)
        asked.set()
        over.wait(WAIT_S)
        return pb.ModelInferResponse()

    ended: list[ImgevalError] = []
    with serving(wait, servicer=Sharing) as url:
        client = Client(Connection(url, shared_memory=True))

        def ask() -> None:
            with pytest.raises(ServerUnavailableError, match="was closed") as error:
                client.score(PICTURE, "a dog")
            ended.append(error.value)

        thread = threading.Thread(target=ask)
        thread.start()
        assert asked.wait(WAIT_S)
        client.close()
        thread.join(WAIT_S)
        assert ended
        with pytest.raises(ServerUnavailableError, match="was closed"):
            client.score(PICTURE, "a dog")


class Server:
    """Takes every region, and knows what it was told."""

    def __init__(self) -> None:
        self.known: set[str] = set()

    def SystemSharedMemoryRegister(self, request: Any, **_: object) -> None:  # noqa: N802 - gRPC's
        self.known.add(request.name)

    def SystemSharedMemoryUnregister(self, request: Any, **_: object) -> None:  # noqa: N802 - gRPC's
        self.known.discard(request.name)


def test_a_restart_gives_back_what_its_calls_held() -> None:
    regions = Regions(Server(), "u", tuple)
    for _ in range(3 * MAX_LOST):
        region = regions.lend(b"image")
        region.give_back(answered=False)
        regions.forget(region.age)
    assert regions._all == {}
    regions.close()


def test_a_restart_is_noticed_once() -> None:
    """By every call that it cost: none of them may take what the new server was told in between."""
    server = Server()
    regions = Regions(server, "u", tuple)
    first, second = regions.lend(b"1"), regions.lend(b"2")
    server.known.clear()
    regions.forget(first.age)
    first.give_back(answered=True)
    third = regions.lend(b"3")
    regions.forget(second.age)
    second.give_back(answered=True)
    third.give_back(answered=True)
    assert server.known == {third.name} == set(regions._all)
    regions.close()
    assert server.known == set()
