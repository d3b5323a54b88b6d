"""Images through this machine's shared memory: a server on the same machine reads them where they are.

A region is made and registered with the server when a call needs one, and lent to one call at a time. It saves the
copies of a message: nothing that can be measured for a photo of 200 kB, a quarter of the time for 10 MB of BMP.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb

from imgeval.errors import ServerFailedError, ServerUnavailableError

MIN_SHARED_BYTES = 64 * 1024  # what is smaller goes in the message
MIN_REGION_BYTES = 1024 * 1024
MAX_LOST = 64  # regions
REGISTER_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Region:
    """Registered memory, called `name` by the server too. `age` counts the server's restarts that were noticed."""

    owner: Regions
    memory: SharedMemory
    age: int

    @property
    def name(self) -> str:
        return self.memory.name

    def give_back(self, *, answered: bool) -> None:
        """After the call. Without an answer the server may still be reading, so that nobody gets this region again."""
        self.owner.take_back(self, answered)


class Regions:
    """The regions of one connection. Safe to share between threads.

    Args:
        stub: of the server's gRPC service.
        url: its address, for messages.
        metadata: makes the headers of a call.
    """

    def __init__(self, stub: Any, url: str, metadata: Callable[[], Any]) -> None:
        self._stub, self._url, self._metadata = stub, url, metadata
        self._lock = threading.Lock()
        self._all: dict[str, Region] = {}
        self._free: list[Region] = []
        self._lost: list[Region] = []  # of calls without an answer: the server may still be reading them
        self._age = 0

    def lend(self, content: bytes) -> Region:
        """A region that holds `content` at its beginning, for one call.

        Raises:
            ServerUnavailableError: the server cannot read the memory, or is not there.
            ServerFailedError: too many calls ended without the server's answer.
        """
        with self._lock:
            fits = [region for region in self._free if region.memory.size >= len(content)]
            if fits:
                region = min(fits, key=lambda each: each.memory.size)
                self._free.remove(region)
        if not fits:
            region = self._registered(len(content))
        with self._lock:
            if region.name not in self._all or region.memory.buf is None:
                raise self._closed()
            region.memory.buf[: len(content)] = content
        return region

    def take_back(self, region: Region, answered: bool) -> None:
        """See `Region.give_back`."""
        with self._lock:
            if region.name not in self._all:
                return  # closed meanwhile
            if region.age != self._age:
                self._destroy(region)
            else:
                (self._free if answered else self._lost).append(region)

    def forget(self, age: int) -> None:
        """The server was restarted: it knows none of the regions of this age, and reads none of them any more."""
        with self._lock:
            if age != self._age:
                return  # noticed already
            self._age += 1
            for region in (*self._free, *self._lost):
                self._destroy(region)
            self._free.clear()
            self._lost.clear()

    def close(self) -> None:
        """Take all regions back from the server, where it is there, and from this machine."""
        with self._lock:
            until = time.monotonic() + REGISTER_TIMEOUT_S  # for all of them: a server may be stuck
            for region in list(self._all.values()):
                # A server that is gone, or takes the authorization no more, keeps nothing that could be taken back.
                with contextlib.suppress(grpc.RpcError, ValueError, ServerUnavailableError):
                    request = pb.SystemSharedMemoryUnregisterRequest(name=region.name)
                    self._stub.SystemSharedMemoryUnregister(
                        request, timeout=max(0.0, until - time.monotonic()), metadata=self._metadata()
                    )
                self._destroy(region)
            self._free.clear()
            self._lost.clear()

    def _registered(self, size: int) -> Region:
        if len(self._lost) >= MAX_LOST:
            raise ServerFailedError(
                f"{len(self._lost)} calls ended without an answer of the server at {self._url}, which may still read "
                "their images in shared memory; to go on, open a new client"
            )
        try:
            memory = SharedMemory(create=True, size=max(MIN_REGION_BYTES, 1 << (size - 1).bit_length()))
        except OSError as error:
            raise ServerUnavailableError(f"no shared memory of {size} bytes on this machine: {error}") from error
        region = Region(self, memory, self._age)
        request = pb.SystemSharedMemoryRegisterRequest(
            name=region.name, key=f"/{region.name}", offset=0, byte_size=memory.size
        )
        with self._lock:
            self._all[region.name] = region
        try:
            self._stub.SystemSharedMemoryRegister(request, timeout=REGISTER_TIMEOUT_S, metadata=self._metadata())
        except (grpc.RpcError, ValueError) as error:
            with self._lock:
                if region.name in self._all:
                    self._destroy(region)
            if isinstance(error, ValueError):
                raise self._closed() from error
            reason = " ".join((error.details() or error.code().name).split())
            raise ServerUnavailableError(
                f"the server at {self._url} cannot use shared memory: {reason} (it must run on this machine, as this "
                "user, and in a container share this machine's IPC namespace)"
            ) from error
        return region

    def _closed(self) -> ServerUnavailableError:
        return ServerUnavailableError(f"the connection to {self._url} was closed")

    def _destroy(self, region: Region) -> None:
        del self._all[region.name]
        region.memory.close()
        region.memory.unlink()
