"""imgeval.cache: what is kept and what goes, what makes two inputs the same, and that nothing kept can be changed."""

from __future__ import annotations

import sys
import tracemalloc
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgeval.cache import ENTRY_BYTES, OFF, ByteCache

PLENTY = 2**20


class Computing:
    """Computes a value for each input, and remembers for which."""

    def __init__(self, value: Any = None) -> None:
        self.calls: list[list[int]] = []
        self._value = value

    def __call__(self, inputs: Sequence[np.ndarray]) -> list[Any]:
        self.calls.append([int(each.flat[0]) for each in inputs])
        return [f"<{int(each.flat[0])}>" if self._value is None else self._value for each in inputs]


def ask(cache: ByteCache, compute: Computing, *numbers: int) -> list[Any]:
    return cache.values([np.array([number]) for number in numbers], cache.key, compute)


def room_for(entries: int, value: object = "<1>") -> int:
    return entries * (ENTRY_BYTES + sys.getsizeof(value))


# --- what is computed ------------------------------------------------------------------------------------------------
def test_a_value_is_computed_once() -> None:
    cache, compute = ByteCache(PLENTY), Computing()
    assert ask(cache, compute, 1, 2) == ["<1>", "<2>"]
    assert ask(cache, compute, 2, 3, 1) == ["<2>", "<3>", "<1>"]
    assert compute.calls == [[1, 2], [3]]
    assert (cache.hits, cache.misses, len(cache)) == (2, 3, 3)


def test_equal_inputs_of_one_question_are_computed_once_and_in_order() -> None:
    cache, compute = ByteCache(PLENTY), Computing()
    assert ask(cache, compute, 5, 3, 5, 4, 3) == ["<5>", "<3>", "<5>", "<4>", "<3>"]
    assert compute.calls == [[5, 3, 4]]
    assert (cache.hits, cache.misses) == (2, 3)


def test_where_all_is_known_or_nothing_is_asked_nothing_is_computed() -> None:
    cache, compute = ByteCache(PLENTY), Computing()
    ask(cache, compute, 1)
    assert ask(cache, compute, 1, 1) == ["<1>", "<1>"]
    assert ask(cache, compute) == ask(OFF, compute) == []
    assert compute.calls == [[1]]


def test_a_cache_that_is_off_computes_everything_and_looks_at_nothing() -> None:
    compute = Computing()

    def no_key(array: np.ndarray) -> bytes:
        raise AssertionError("hashing costs time")

    for _ in range(2):
        assert ByteCache(0).values([np.array([1]), np.array([1])], no_key, compute) == ["<1>", "<1>"]
    assert compute.calls == [[1, 1], [1, 1]]


def test_what_fails_is_not_kept() -> None:
    cache, compute = ByteCache(PLENTY), Computing()

    def fail(inputs: Sequence[np.ndarray]) -> list[Any]:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        cache.values([np.array([1])], cache.key, fail)
    assert (len(cache), cache.misses) == (0, 0)
    assert ask(cache, compute, 1) == ["<1>"]


def test_a_value_for_each_input_is_demanded() -> None:
    cache = ByteCache(PLENTY)
    with pytest.raises(ValueError, match="shorter"):
        cache.values([np.array([1]), np.array([2])], cache.key, lambda inputs: ["one"])


# --- what makes inputs the same --------------------------------------------------------------------------------------
def test_the_same_bytes_of_another_type_or_shape_are_another_input() -> None:
    content = np.arange(12, dtype=np.uint8).tobytes()
    flat = np.frombuffer(content, np.uint8)
    arrays = [
        flat, flat.reshape(3, 4), flat.reshape(4, 3), flat.reshape(1, 12), flat.view(np.int8),
        flat.view(np.float32), flat.view(np.int32), flat.view(">i4"), flat[:11], flat[:0], np.zeros((0, 1)),
    ]  # fmt: skip
    cache = ByteCache(PLENTY)
    keys = {cache.key(array) for array in arrays}
    # The same bytes, cut into two arrays at another place, or in another order.
    pairs = [(flat[:3], flat[3:]), (flat[:4], flat[4:]), (flat[3:], flat[:3]), (flat, flat[:0]), (flat[:0], flat)]
    keys |= {cache.key(*pair) for pair in pairs}
    assert len(keys) == len(arrays) + len(pairs)


def test_the_layout_in_memory_makes_no_difference() -> None:
    array, cache = np.arange(24, dtype=np.float32).reshape(2, 3, 4), ByteCache(PLENTY)
    assert cache.key(array) == cache.key(np.asfortranarray(array)) == cache.key(np.repeat(array, 2, axis=2)[..., ::2])


def test_what_computes_is_part_of_the_key() -> None:
    array = np.zeros(3)
    keys = {ByteCache(PLENTY, fingerprint).key(array) for fingerprint in ("", "a", "b", "ab")}
    assert len(keys) == 4
    assert ByteCache(PLENTY, "a").key(array) == ByteCache(1, "a").key(array)


def test_arrays_of_objects_are_refused() -> None:
    """Their bytes are addresses."""
    with pytest.raises(TypeError, match="objects"):
        ByteCache(PLENTY).key(np.array([b"text"], dtype=object))


# --- what is kept ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Result:
    vectors: np.ndarray
    names: tuple[str, ...] = ()


@dataclass
class Open:
    vectors: np.ndarray


def test_what_is_kept_is_cut_off_from_what_was_given() -> None:
    cache, mine = ByteCache(PLENTY), np.ones((2, 3), np.float32)
    (first,) = ask(cache, Computing(Result(mine[:, 1:], ("a",))), 1)
    mine[:] = 7
    (again,) = ask(cache, Computing(), 1)
    assert again is first
    assert (again.vectors.tolist(), again.names, again.vectors.dtype) == ([[1, 1], [1, 1]], ("a",), np.float32)
    with pytest.raises(ValueError, match="read-only"):
        again.vectors[0, 0] = 7


@pytest.mark.parametrize(
    "value",
    [[1], {"a": 1}, {1}, bytearray(b"a"), Open(np.ones(1)), (1, [2]), Result(np.ones(1), ["a"]), np.array([None])],  # type: ignore[arg-type]
    ids=lambda value: f"{type(value).__name__} {value}"[:20],
)
def test_what_could_be_changed_later_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="not a kind of value that is kept"):
        ask(ByteCache(PLENTY), Computing(value), 1)


# --- what goes -------------------------------------------------------------------------------------------------------
def test_the_least_recently_used_goes_first() -> None:
    cache, compute = ByteCache(room_for(3)), Computing()
    ask(cache, compute, 1)
    ask(cache, compute, 2)
    ask(cache, compute, 3)
    ask(cache, compute, 1)  # used again: now 2 is the oldest
    ask(cache, compute, 4)
    compute.calls.clear()
    ask(cache, compute, 3, 1, 4)
    assert compute.calls == []
    ask(cache, compute, 2)
    assert compute.calls == [[2]]


def test_a_question_larger_than_the_cache_is_answered() -> None:
    cache, compute = ByteCache(room_for(2)), Computing()
    assert ask(cache, compute, 1, 2, 3, 4) == ["<1>", "<2>", "<3>", "<4>"]
    assert ask(cache, compute, 4, 3, 2, 1) == ["<4>", "<3>", "<2>", "<1>"]
    assert compute.calls == [[1, 2, 3, 4], [2, 1]]


def test_a_value_larger_than_the_cache_pushes_nothing_out() -> None:
    cache, compute = ByteCache(room_for(2)), Computing()
    ask(cache, compute, 1, 2)
    assert ask(cache, Computing("x" * 2000), 3) == ["x" * 2000]
    ask(cache, compute, 1, 2)
    assert compute.calls == [[1, 2]]


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="max_bytes is -1"):
        ByteCache(-1)


@settings(deadline=None)
@given(
    max_bytes=st.integers(1, 4000),
    questions=st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=30),
    lengths=st.lists(st.integers(0, 1500), min_size=10, max_size=10),
)
def test_any_history_keeps_the_bound_and_the_order(
    max_bytes: int, questions: list[list[int]], lengths: list[int]
) -> None:
    """Against the plainest model of it: a dictionary in order of use."""
    cache, expected = ByteCache(max_bytes), OrderedDict[int, int]()
    hits = misses = 0
    for numbers in questions:
        computed: list[int] = []

        def compute(inputs: Sequence[np.ndarray], computed: list[int] = computed) -> list[bytes]:
            computed += [int(each[0]) for each in inputs]
            return [bytes([each]) * lengths[each] for each in computed]

        assert ask(cache, compute, *numbers) == [bytes([each]) * lengths[each] for each in numbers]  # type: ignore[arg-type]
        assert computed == [each for each in dict.fromkeys(numbers) if each not in expected]
        hits, misses = hits + len(numbers) - len(computed), misses + len(computed)
        for each in numbers:
            size = ENTRY_BYTES + sys.getsizeof(b"") + lengths[each]
            if size <= max_bytes:
                expected[each] = size
                expected.move_to_end(each)
            while sum(expected.values()) > max_bytes:
                expected.popitem(last=False)
        assert cache.used_bytes == sum(expected.values()) <= max_bytes
        assert len(cache) == len(expected)
    assert (cache.hits, cache.misses) == (hits, misses)


@pytest.mark.parametrize(
    "make",
    [lambda number: (float(number), None), lambda number: (np.full(384, number, np.float32),),
     lambda number: Result(np.full((4, 96), number, np.float32), (f"name {number}", "b"))],
    ids=["a number", "an embedding", "a dataclass"],
)  # fmt: skip
def test_the_bytes_that_are_counted_are_those_that_are_taken(make: Any) -> None:
    cache, inputs = ByteCache(2**30), [np.array([number]) for number in range(5000)]
    tracemalloc.start()
    try:
        cache.values(inputs, cache.key, lambda given: [make(int(each[0])) for each in given])
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    print(f"\ncounted {cache.used_bytes / len(cache):.0f} bytes an entry, taken {taken / len(cache):.0f}")
    assert taken == pytest.approx(cache.used_bytes, rel=0.25)
