"""imgeval.outages on a fake transport: servers that go and come, and rows that kill them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgeval import (
    Client,
    DeadlineExceededError,
    InvalidInputError,
    ServerFailedError,
    ServerUnavailableError,
    outages,
)
from imgeval.errors import ServerLostError
from imgeval.inputs import LazyImage
from imgeval.outages import MAX_ATTEMPTS, Outages, scored_rows
from imgeval.runs import Row
from imgeval.sources import Item
from tests.fake_transport import DETAILS, FakeTransport

WAIT_S = 20.0


class Mortal(FakeTransport):
    """A server that dies of some prompts, each for so many times, and is back after `looks` looks for it."""

    def __init__(self, deaths: dict[str, int], looks: int = 2, unready: bool = False) -> None:
        super().__init__(answer=self._one)
        self.deaths, self.looks, self.unready = Counter(deaths), looks, unready
        self.asked: Counter[str] = Counter()
        self._lock, self._gone = threading.Lock(), 0

    def check_ready(self, model: str, timeout_s: float) -> None:
        with self._lock:
            if self._gone:
                self._gone -= 1
                raise ServerUnavailableError("no server at fake:1")

    def _one(self, image: bytes, prompt: str) -> dict[str, Any]:
        with self._lock:
            self.asked[prompt] += 1
            if self.deaths[prompt]:
                self.deaths[prompt] -= 1
                self._gone = self.looks
                raise (ServerUnavailableError if self.unready else ServerLostError)("the server went away")
            if self._gone:
                raise ServerLostError("the server went away")
        return {**DETAILS, "score": int(prompt) / 1000}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outages, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(outages, "LAST_DELAY_S", 0.002)


def rows(
    transport: FakeTransport, count: int, concurrency: int = 4, wait_s: float = WAIT_S, notes: list[str] | None = None
) -> Iterator[Row]:
    client = Client(transport=transport)
    todo = ((index, Item(LazyImage("a.png", lambda: b"image"), str(index))) for index in range(count))
    waiting = Outages(client, wait_s, (notes if notes is not None else []).append)
    return scored_rows(client, todo, ("clip",), concurrency, waiting)


@given(
    deaths=st.dictionaries(st.integers(0, 39).map(str), st.integers(1, 5), max_size=6),
    concurrency=st.integers(1, 5),
    unready=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_every_row_is_made_once_in_order_whatever_kills_the_server(
    deaths: dict[str, int], concurrency: int, unready: bool
) -> None:
    transport = Mortal(deaths, unready=unready)
    found = list(rows(transport, 40, concurrency))
    assert [row.index for row in found] == list(range(40))
    for row in found:
        assert (row.error is None) == (row.score == row.index / 1000)
    failed = {row.prompt for row in found if row.error}
    if unready:
        assert failed == set()
    else:
        # One loss may be a neighbour's that was under way beside it; then it went alone.
        assert failed <= {prompt for prompt, times in deaths.items() if times >= MAX_ATTEMPTS - 1}, "only what kills it"
        assert all(transport.asked[prompt] <= MAX_ATTEMPTS for prompt in failed)


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_row_that_always_kills_the_server_is_an_error_and_the_others_are_scored(concurrency: int) -> None:
    transport, notes = Mortal({"7": 1_000_000}), []
    found = list(rows(transport, 20, concurrency, notes=notes))
    assert [row.index for row in found if row.error] == [7]
    assert found[7].error == "the server went away"
    assert transport.asked["7"] <= MAX_ATTEMPTS
    assert 1 <= len(notes) <= MAX_ATTEMPTS
    assert notes[0] == "the server went away; waiting up to 20 s for it"


def test_a_server_that_stays_away_ends_it_after_the_rows_that_were_made() -> None:
    transport, found = Mortal({"5": 1}, looks=1_000_000_000), []
    with pytest.raises(ServerUnavailableError, match=r"\(waited 0\.05 s\)"):
        collect(rows(transport, 20, wait_s=0.05), found)
    assert found == list(range(len(found)))
    assert len(found) <= 5


def collect(rows: Iterator[Row], found: list[int]) -> None:
    for row in rows:
        found.append(row.index)


def test_without_patience_a_missing_server_is_said_at_once() -> None:
    transport = FakeTransport(error=ServerUnavailableError("no server at fake:1"))
    with pytest.raises(ServerUnavailableError, match=r"no server at fake:1"):
        next(rows(transport, 20, wait_s=0))


@pytest.mark.parametrize("error", [DeadlineExceededError("late"), ServerFailedError("INTERNAL")])
def test_other_failures_are_rows_at_once(error: ServerFailedError) -> None:
    transport = FakeTransport(error=error)
    says = "no answer within 60 s" if isinstance(error, DeadlineExceededError) else "INTERNAL"
    assert [says in (row.error or "") for row in rows(transport, 5)] == [True] * 5
    assert len(transport.calls) == 5


def test_a_failure_of_a_server_that_is_going_is_no_failure_of_the_row() -> None:
    """Its models go one by one, each with an error of its own, before its connections end."""

    class Going(Mortal):
        def _one(self, image: bytes, prompt: str) -> dict[str, Any]:
            try:
                return super()._one(image, prompt)
            except ServerLostError as error:
                raise ServerFailedError("failed: INTERNAL: clip_text: Server not ready") from error

    transport = Going({"3": 1, "9": 2})
    assert [row.error for row in rows(transport, 20)] == [None] * 20
    assert transport.asked["9"] == 3


def test_items_are_read_as_they_are_needed() -> None:
    found = rows(FakeTransport(answer=lambda image, prompt: DETAILS), 1_000_000_000)
    assert [next(found).index for _ in range(100)] == list(range(100))
    found.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("deaths", [{}, {"0": 1}, {"1": 9}])
def test_an_input_that_breaks_is_not_an_input_that_ends(deaths: dict[str, int]) -> None:
    """Also where the server is lost just then: the rows that were read are made, and the error is not forgotten."""

    def breaking() -> Iterator[tuple[int, Item]]:
        for index in range(3):
            yield index, Item(LazyImage("a.png", lambda: b"image"), str(index))
        raise InvalidInputError("INPUT", "in.csv cannot be read")

    client = Client(transport=Mortal(deaths))
    made: list[int] = []
    found = scored_rows(client, breaking(), ("clip",), 8, Outages(client, WAIT_S, lambda note: None))
    with pytest.raises(InvalidInputError, match="cannot be read"):
        made.extend(row.index for row in found)
    assert made == [0, 1, 2]
