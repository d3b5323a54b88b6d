"""The gRPC boundary: arrays in, arrays out, and every foreign error turned into one of `errors.py`."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, np_to_triton_dtype

from imgeval.errors import (
    DeadlineExceededError,
    ImgevalError,
    InvalidInputError,
    ServerFailedError,
    ServerLostError,
    ServerUnavailableError,
)

# Pings notice a peer that vanished without closing. A server that is not told otherwise takes one every 5 minutes while
# it is computing, and ends connections with more: a request of minutes would fail with "too many pings".
KEEPALIVE_TIME_MS = 330_000
KEEPALIVE_TIMEOUT_MS = 10_000
MAX_RECONNECT_MS = 2_000  # between attempts to reach a server that is gone; gRPC's own 2 minutes would miss its return
MAX_MESSAGE_BYTES = 2**31 - 1  # gRPC's own upper limit
LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")


class Transport(Protocol):
    """What a client needs of a server."""

    url: str

    def check_ready(self, model: str, timeout_s: float) -> None:
        """Raise ServerUnavailableError unless the server is reachable and serves this model."""

    def infer(
        self, model: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str], timeout_s: float
    ) -> dict[str, NDArray[Any]]:
        """Run a model on one batch and return the outputs asked for."""

    def close(self) -> None:
        """Give the connection back."""


class GrpcTransport:
    """tritonclient's gRPC."""

    def __init__(self, url: str) -> None:
        """`url` is HOST:PORT.

        Raises:
            InvalidInputError: not of that form.
        """
        if not re.fullmatch(r"[^\s/@]+:\d{1,5}", url) or not 1 <= int(url.rpartition(":")[2]) <= 65_535:
            raise InvalidInputError("url", f"got {url!r}; allowed: HOST:PORT, such as localhost:8001")
        self.url = url
        self._client = triton.InferenceServerClient(url, channel_args=_channel_args(url))

    def check_ready(self, model: str, timeout_s: float) -> None:
        try:
            ready = self._client.is_model_ready(model, client_timeout=timeout_s)
        except InferenceServerException as error:
            raise ServerUnavailableError(f"no server at {self.url}: {_one_line(error)}") from error
        if not ready:
            raise ServerUnavailableError(f"the server at {self.url} is not ready: model {model!r} is not served")

    def infer(
        self, model: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str], timeout_s: float
    ) -> dict[str, NDArray[Any]]:
        tensors = []
        for name, array in inputs.items():
            tensor = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
            tensor.set_data_from_numpy(array)
            tensors.append(tensor)
        try:
            response = self._client.infer(
                model,
                tensors,
                outputs=[triton.InferRequestedOutput(name) for name in outputs],
                client_timeout=timeout_s,
            )
        except InferenceServerException as error:
            raise _typed(error, self.url, timeout_s) from error
        answers = {}
        for name in outputs:
            try:
                array = response.as_numpy(name)
            except (ValueError, TypeError, struct.error) as error:  # tritonclient trusts sizes and types
                raise ServerFailedError(f"the server at {self.url} garbled the output {name}: {error}") from error
            if array is None:
                raise ServerFailedError(f"the server at {self.url} left out the output {name}")
            answers[name] = np.asarray(array)
        return answers

    def close(self) -> None:
        self._client.close()


def _channel_args(url: str) -> list[tuple[str, int]]:
    """Settings of the channel. They replace tritonclient's own, so its message limits stand here again."""
    settings = {
        "grpc.max_send_message_length": MAX_MESSAGE_BYTES,
        "grpc.max_receive_message_length": MAX_MESSAGE_BYTES,
        "grpc.keepalive_time_ms": KEEPALIVE_TIME_MS,
        "grpc.keepalive_timeout_ms": KEEPALIVE_TIMEOUT_MS,
        "grpc.max_reconnect_backoff_ms": MAX_RECONNECT_MS,
    }
    if url.rpartition(":")[0] in LOOPBACK_HOSTS:
        settings["grpc.enable_http_proxy"] = 0  # a proxy from the environment cannot reach this machine's loopback
    return list(settings.items())


def _typed(error: InferenceServerException, url: str, timeout_s: float) -> ImgevalError:
    status = str(error.status() or "").removeprefix("StatusCode.")
    message = _one_line(error)
    if status == "INVALID_ARGUMENT":
        # "in ensemble 'imgeval', preprocess: IMAGE: got ..." -> the field and what is wrong with it
        match = re.search(r"(IMAGE|PROMPT): (.*)", message)
        return InvalidInputError(*match.groups()) if match else InvalidInputError("request", message)
    if status == "DEADLINE_EXCEEDED":
        return DeadlineExceededError(f"the server at {url} gave no answer within {timeout_s:g} s")
    if status == "UNAVAILABLE" and "failed to connect" in message.lower():
        return ServerUnavailableError(f"no server at {url}: {message}")
    kind = ServerLostError if status == "UNAVAILABLE" else ServerFailedError
    return kind(f"the server at {url} failed: {status or 'no status'}: {message}")


def _one_line(error: InferenceServerException) -> str:
    return " ".join((error.message() or "no reason given").split())
