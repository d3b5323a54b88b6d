"""Work that is done once: values by the content they were computed from, bounded in bytes.

A cache belongs to one process, which loads one version of one model once and computes in one thread, so there are no
locks, and a reloaded model begins with an empty cache. What makes up a key:

    fingerprint of the repository | type, shape and bytes of every input array  -> SHA-256

SHA-256, because whoever sends images must not be able to make two of them collide; of hashlib's functions it is also
the fastest where the processor knows it (0.33 ms for 600 KB against 0.64 ms of BLAKE2b, on an AMD Zen 5).
"""

from __future__ import annotations

import hashlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

# What the build writes into a model's configuration for this cache.
MAX_BYTES_PARAMETER = "cache_max_bytes"
FINGERPRINT_PARAMETER = "cache_fingerprint"

ENTRY_BYTES = 300  # of the key, its place in the dictionary and its order, on top of the value

Input = TypeVar("Input")
Value = TypeVar("Value")


def unreported(hits: int, misses: int, used_bytes: int) -> None:
    """The report of a cache that nobody watches."""


class ByteCache:
    """The least recently used values go when `max_bytes` are exceeded; 0 bytes: off, everything is computed.

    Values are arrays, kept as read-only copies, or texts, numbers, None, and tuples and frozen dataclasses of these.

    Args:
        max_bytes: of all entries together, 0 or more.
        fingerprint: of what computes the values; part of every key.
        report: told after every question its hits and misses, and the bytes in use.
    """

    def __init__(
        self, max_bytes: int, fingerprint: str = "", report: Callable[[int, int, int], None] = unreported
    ) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes is {max_bytes}, allowed is 0 or more")
        self.max_bytes = max_bytes
        self.used_bytes = 0
        self.hits = self.misses = 0
        self._prefix = hashlib.sha256(f"{len(fingerprint)} {fingerprint}".encode())
        self._entries: OrderedDict[bytes, tuple[Any, int]] = OrderedDict()  # key -> value, bytes; the oldest first
        self._report = report

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, *arrays: NDArray[Any]) -> bytes:
        """The key of arrays, by type, shape and content. Raises TypeError for arrays of Python objects."""
        digest = self._prefix.copy()
        for array in arrays:
            if array.dtype.hasobject:
                raise TypeError("an array of Python objects has no content to hash")
            digest.update(f"{array.dtype.str}{array.shape}".encode())  # says how many bytes follow
            digest.update(np.ascontiguousarray(array).data)
        return digest.digest()

    def values(
        self,
        inputs: Sequence[Input],
        key: Callable[[Input], bytes],
        compute: Callable[[Sequence[Input]], Sequence[Value]],
    ) -> list[Value]:
        """The value of each input; those that are not known are computed together, equal ones once.

        Args:
            inputs: arrays where `key` is this cache's own, else what `key` takes.
            key: gives the key of an input; not called where the cache is off.
            compute: gets the inputs that are needed, in order, and returns a value for each; not called for none. The
                value of an input must not depend on the others.
        """
        if not self.max_bytes:
            return list(compute(inputs)) if inputs else []
        keys = [key(each) for each in inputs]
        found = {each: self._entries[each][0] for each in keys if each in self._entries}
        missing: dict[bytes, Input] = {}
        for each, given in zip(keys, inputs, strict=True):
            if each not in found:
                missing.setdefault(each, given)
        if missing:
            computed = compute(list(missing.values()))
            found.update((each, _kept(value)) for each, value in zip(missing, computed, strict=True))
        for each in keys:
            self._use(each, found[each])
        hits = len(keys) - len(missing)
        self.hits, self.misses = self.hits + hits, self.misses + len(missing)
        self._report(hits, len(missing), self.used_bytes)
        return [found[each] for each in keys]

    def _use(self, key: bytes, value: Any) -> None:
        """Make this entry the most recently used one, and drop the least recently used ones that do not fit."""
        if key in self._entries:
            self._entries.move_to_end(key)
            return
        size = ENTRY_BYTES + _bytes_of(value)
        if size > self.max_bytes:
            return  # it would push out all others and not fit itself
        self._entries[key] = (value, size)
        self.used_bytes += size
        while self.used_bytes > self.max_bytes:
            _, (_, freed) = self._entries.popitem(last=False)
            self.used_bytes -= freed


OFF = ByteCache(0)


def _kept(value: Any) -> Any:
    """`value` as nobody can change it any more: arrays become read-only copies. Raises TypeError for other objects."""
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        copy = value.copy()
        copy.flags.writeable = False
        return copy
    if isinstance(value, tuple):
        return tuple(map(_kept, value))
    if is_dataclass(value) and not isinstance(value, type) and value.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return replace(value, **{field.name: _kept(getattr(value, field.name)) for field in fields(value)})
    if value is None or isinstance(value, (str, bytes, int, float, np.number)):
        return value
    raise TypeError(f"{type(value).__name__} is not a kind of value that is kept")


def _bytes_of(value: Any) -> int:
    """The memory that a kept value takes, its parts included."""
    if isinstance(value, tuple):
        return sys.getsizeof(value) + sum(map(_bytes_of, value))
    if is_dataclass(value):
        return sys.getsizeof(value) + sys.getsizeof(vars(value)) + sum(map(_bytes_of, vars(value).values()))
    return sys.getsizeof(value)  # of an array that owns its content, with it
