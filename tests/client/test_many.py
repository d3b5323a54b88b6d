"""imgeval.many: order, bounds, errors in the middle, early ends; on a fake transport."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imgeval import Client, ImgevalError, InvalidInputError, Outcome, ServerFailedError, ServerUnavailableError
from imgeval.inputs import LazyImage
from imgeval.many import READ_AHEAD
from tests.fake_transport import DETAILS, FakeTransport

WAIT_S = 20.0  # for what must happen; nothing is timed


class Watched:
    """A transport's answers by prompt "N", and how many pairs were read and calls were under way at most."""

    def __init__(self, delays_ms: list[int] | None = None, errors: dict[int, ImgevalError] | None = None) -> None:
        self._delays_ms, self._errors = delays_ms, errors or {}
        self._lock = threading.Lock()
        self._under_way = 0
        self.most_under_way = self.most_held = self.read = 0
        self.found: list[Outcome] = []
        self.client = Client(transport=FakeTransport(answer=self._answer))

    def _answer(self, image: bytes, prompt: str) -> dict[str, Any]:
        with self._lock:
            self._under_way += 1
            self.most_under_way = max(self.most_under_way, self._under_way)
        try:
            if self._delays_ms:
                time.sleep(self._delays_ms[int(prompt)] / 1e3)
            if error := self._errors.get(int(prompt)):
                raise error
            return {**DETAILS, "score": int(prompt) / 100}
        finally:
            with self._lock:
                self._under_way -= 1

    def pairs(self, count: int) -> Iterator[tuple[bytes, str]]:
        for index in range(count):
            self.read += 1
            self.most_held = max(self.most_held, self.read - len(self.found))
            yield b"image", str(index)


@given(
    delays_ms=st.lists(st.integers(0, 3), max_size=30),
    concurrency=st.integers(1, 5),
    ordered=st.booleans(),
    failing=st.sets(st.integers(0, 29)),
)
@settings(max_examples=40, deadline=None)
def test_every_pair_has_one_outcome_and_no_more_are_held_than_allowed(
    delays_ms: list[int], concurrency: int, ordered: bool, failing: set[int]
) -> None:
    watched = Watched(delays_ms, {index: ServerFailedError(f"failed {index}") for index in failing})
    found = watched.found
    pairs = watched.pairs(len(delays_ms))
    collect(watched.client.score_many(pairs, concurrency=concurrency, ordered=ordered), found)
    assert watched.most_held <= READ_AHEAD * concurrency
    indices = [outcome.index for outcome in found]
    assert sorted(indices) == list(range(len(delays_ms)))
    assert not ordered or indices == sorted(indices)
    assert watched.most_under_way <= concurrency
    for outcome in found:
        assert (outcome.prompt, outcome.image) == (str(outcome.index), "<bytes>")
        if outcome.index in failing:
            assert (outcome.result, str(outcome.error)) == (None, f"failed {outcome.index}")
        else:
            assert outcome.error is None
            assert outcome.result is not None and outcome.result.score == outcome.index / 100


@pytest.mark.parametrize("ordered", [True, False])
def test_calls_overlap_up_to_the_concurrency(ordered: bool) -> None:
    together = threading.Barrier(4, timeout=WAIT_S)

    def answer(image: bytes, prompt: str) -> dict[str, Any]:
        together.wait()
        return DETAILS

    client = Client(transport=FakeTransport(answer=answer))
    pairs = [(b"image", str(index)) for index in range(8)]
    assert len(list(client.score_many(pairs, concurrency=4, ordered=ordered))) == 8


def test_completed_ones_pass_a_slow_one_where_no_order_is_asked_for() -> None:
    others_done = threading.Event()

    def answer(image: bytes, prompt: str) -> dict[str, Any]:
        if prompt == "0":
            assert others_done.wait(WAIT_S)
        return DETAILS

    client = Client(transport=FakeTransport(answer=answer))
    found = []
    for outcome in client.score_many(((b"image", str(index)) for index in range(10)), concurrency=2, ordered=False):
        found.append(outcome.index)
        if len(found) == 9:
            others_done.set()
    assert found[-1] == 0
    assert sorted(found) == list(range(10))


def test_a_slow_source_delays_an_outcome_by_one_pair_at_most() -> None:
    """Pairs may be images that are being generated: what is scored is handed out before the next few are made."""
    scored, read = threading.Event(), []

    def answer(image: bytes, prompt: str) -> dict[str, Any]:
        scored.set()
        return DETAILS

    def pairs() -> Iterator[tuple[bytes, str]]:
        for index in range(100):
            if index == 1:
                assert scored.wait(WAIT_S)
                time.sleep(0.2)  # its worker is through with it
            read.append(index)
            yield b"image", str(index)

    assert next(Client(transport=FakeTransport(answer=answer)).score_many(pairs())).index == 0
    assert read in ([0], [0, 1]), "the second at most"


# --- bad pairs -------------------------------------------------------------------------------------------------------
def test_one_bad_pair_is_an_outcome_and_no_stop() -> None:
    class Broken(Image.Image):
        def getexif(self) -> Image.Exif:
            raise KeyError("broken inside")

    pairs: list[Any] = [
        ("/nowhere/dog.jpg", "0"),
        (b"image", " "),
        (b"image", None),
        (b"image",),
        7,
        (np.zeros((2, 2), np.float32), "5"),
        (Broken(), "6"),
        ("\ud800", "7"),
        (None, "8"),
        (b"image", "9"),
    ]
    found = list(Watched().client.score_many(pairs, concurrency=2))
    assert [outcome.error is None for outcome in found] == [False] * 9 + [True]
    assert all(isinstance(outcome.error, InvalidInputError) for outcome in found[:9])
    says = [
        "IMAGE: /nowhere/dog.jpg does not exist", "PROMPT: got blank text", "PROMPT: got NoneType; allowed: text",
        "pair: got tuple; allowed: (image, prompt)", "pair: got int", "IMAGE: got an array of float32",
        "IMAGE: got a PIL image", "cannot be read", "IMAGE: got NoneType",
    ]  # fmt: skip
    for outcome, part in zip(found, says, strict=False):
        assert part in str(outcome.error)


def test_a_buffer_may_be_used_again_for_the_next_image() -> None:
    seen: dict[str, bytes] = {}

    def answer(image: bytes, prompt: str) -> dict[str, Any]:
        seen[prompt] = image
        return DETAILS

    def pairs() -> Iterator[tuple[np.ndarray, str]]:
        buffer = np.zeros((8, 8, 3), np.uint8)
        for index in range(20):
            buffer[:] = index
            yield buffer, str(index)

    list(Client(transport=FakeTransport(answer=answer)).score_many(pairs(), concurrency=4))
    assert len(set(seen.values())) == 20


def test_a_lazy_image_is_read_by_a_worker_and_before_the_deadline_begins() -> None:
    def slow() -> bytes:
        assert threading.current_thread() is not threading.main_thread()
        time.sleep(0.2)
        return b"image"

    def broken() -> bytes:
        raise InvalidInputError("IMAGE", "gone")

    transport = FakeTransport()
    client = Client(transport=transport, timeout_s=0.1)
    pairs = [(LazyImage("slow.png", slow), "a dog"), (LazyImage("broken.png", broken), "a dog")]
    slow_one, broken_one = client.score_many(pairs)
    assert (slow_one.image, slow_one.error) == ("slow.png", None)
    assert (broken_one.image, str(broken_one.error)) == ("broken.png", "IMAGE: gone")
    assert transport.calls[0][1]["IMAGE"] == b"image"


def collect(outcomes: Iterator[Outcome], found: list[Outcome]) -> None:
    for outcome in outcomes:
        found.append(outcome)


# --- ends ------------------------------------------------------------------------------------------------------------
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

    read = 0

    def pairs() -> Iterator[tuple[bytes, str]]:
        nonlocal read
        for index in range(1_000_000):
            read += 1
            yield b"image", str(index)

    found: list[Outcome] = []
    client = Client(transport=FakeTransport(answer=answer))
    with pytest.raises(ServerUnavailableError, match="gone"):
        collect(client.score_many(pairs(), concurrency=3, ordered=ordered), found)
    indices = [outcome.index for outcome in found]
    assert 1 not in indices
    assert {0, 2} <= set(indices), "what was under way is handed out"
    assert all(outcome.error is None for outcome in found)
    assert read < 1000


def test_a_server_that_was_never_there_is_said_at_once() -> None:
    watched = Watched()
    client = Client(transport=FakeTransport(error=ServerUnavailableError("down")))
    with pytest.raises(ServerUnavailableError, match="down"):
        next(client.score_many(watched.pairs(1_000_000), concurrency=4))
    assert watched.read <= READ_AHEAD * 4


@pytest.mark.parametrize("ordered", [True, False])
def test_what_the_source_raises_comes_after_the_outcomes_of_what_it_gave(ordered: bool) -> None:
    def pairs() -> Iterator[tuple[bytes, str]]:
        yield from [(b"image", "0"), (b"image", "1")]
        raise ZeroDivisionError("in the source")

    found: list[Outcome] = []
    with pytest.raises(ZeroDivisionError, match="in the source"):
        collect(Watched([5, 0]).client.score_many(pairs(), ordered=ordered), found)
    assert sorted(outcome.index for outcome in found) == [0, 1]


def test_closing_early_drops_what_has_not_started() -> None:
    release, all_read, asked = threading.Event(), threading.Event(), []

    def answer(image: bytes, prompt: str) -> dict[str, Any]:
        asked.append(prompt)
        assert (all_read if prompt == "0" else release).wait(WAIT_S)
        return DETAILS

    def pairs() -> Iterator[tuple[bytes, str]]:
        for index in range(100):
            if index == READ_AHEAD * 2 - 1:
                all_read.set()
            yield b"image", str(index)

    before = set(threading.enumerate())
    outcomes = Client(transport=FakeTransport(answer=answer)).score_many(pairs(), concurrency=2)
    assert next(outcomes).index == 0
    time.sleep(0.05)  # a worker is free of 0 and takes 2, if it is not yet cancelled
    outcomes.close()  # type: ignore[attr-defined]
    release.set()
    for thread in set(threading.enumerate()) - before:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    assert "0" in asked
    assert "3" not in asked, "that was read, and no worker was free"
    assert list(outcomes) == []


def test_an_error_that_is_no_outcome_is_raised() -> None:
    def answer(image: bytes, prompt: str) -> dict[str, Any]:
        raise MemoryError("a bug or worse")

    with pytest.raises(MemoryError):
        list(Client(transport=FakeTransport(answer=answer)).score_many([(b"image", "a dog")]))


def test_options_are_refused_before_anything_is_read() -> None:
    watched = Watched()
    with pytest.raises(InvalidInputError, match="concurrency: got 0; allowed: 1 or more"):
        watched.client.score_many(watched.pairs(3), concurrency=0)
    with pytest.raises(InvalidInputError, match="metrics: got beauty"):
        watched.client.score_many(watched.pairs(3), metrics=["beauty"])
    assert watched.read == 0


def test_a_part_of_the_metrics_is_passed_on() -> None:
    transport = FakeTransport()
    (outcome,) = Client(transport=transport).score_many([(b"image", "a dog")], metrics=["clip"])
    assert transport.calls[0][2] == ["INPUT_DETAILS", "CLIP"]
    assert outcome.result is not None
