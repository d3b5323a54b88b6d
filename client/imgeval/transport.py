"""The gRPC boundary: arrays in, arrays out, and every foreign error turned into one of `errors.py`."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import grpc
import numpy as np
from google.protobuf.json_format import MessageToDict
from numpy.typing import NDArray
from tritonclient.grpc import InferResult, service_pb2_grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import np_to_triton_dtype

from imgeval.channel import RECOVERY_S, open_channel
from imgeval.connection import Connection
from imgeval.errors import (
    DeadlineExceededError,
    ImgevalError,
    InvalidInputError,
    ServerFailedError,
    ServerLostError,
    ServerUnavailableError,
)
from imgeval.shared_memory import MIN_SHARED_BYTES, Region, Regions

Arrays = Mapping[str, NDArray[Any]]
T = TypeVar("T")

NOT_CONNECTED = ("connections to all backends failing", "failed to connect", "dns resolution failed")


class Transport(Protocol):
    """What a client needs of a server: two questions, each to wait for or to start.

    The future of one that was started may be cancelled, and its `cancel` reaches the server.
    """

    url: str

    def check_ready(self, model: str, timeout_s: float) -> None:
        """Raise ServerUnavailableError unless the server is reachable and serves this model."""

    def infer(self, model: str, inputs: Arrays, outputs: Sequence[str], timeout_s: float) -> dict[str, NDArray[Any]]:
        """Run a model on one batch and return the outputs asked for."""

    def start_check_ready(self, model: str, timeout_s: float) -> Future[None]:
        """Start `check_ready`."""

    def start_infer(
        self, model: str, inputs: Arrays, outputs: Sequence[str], timeout_s: float
    ) -> Future[dict[str, NDArray[Any]]]:
        """Start `infer`."""

    def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        """The configuration of a model, as Triton writes it in JSON."""

    def server_status(self, timeout_s: float) -> dict[str, Any]:
        """The server's name, version and extensions, and how many regions of shared memory clients registered."""

    def close(self) -> None:
        """Give the connection back; ends what is under way."""


@dataclass(frozen=True)
class _Call(Generic[T]):
    """One remote call: what is sent, what its response means, and what its failure means."""

    method: Any  # grpc.UnaryUnaryMultiCallable
    request: Any
    metadata: tuple[tuple[str, str], ...]
    timeout_s: float
    answer: Callable[[Any], T]
    failure: Callable[[grpc.RpcError], ImgevalError]
    end: Callable[[bool], None] = lambda answered: None  # whatever happened; whether the server said something
    wait_for_ready: bool = False  # for a connection, where there is none; else that is a failure at once

    @property
    def how(self) -> dict[str, Any]:
        return {"timeout": self.timeout_s, "metadata": self.metadata, "wait_for_ready": self.wait_for_ready}


class GrpcTransport:
    """Triton's protocol, with the messages that tritonclient generates from it, on one gRPC channel.

    The channel is our own and not that of tritonclient's InferenceServerClient, whose readiness question cannot be
    started without waiting for it.
    """

    def __init__(self, where: str | Sequence[str] | Connection) -> None:
        """`where` is HOST:PORT, several of them, or a Connection.

        Raises:
            InvalidInputError: an address or option that is not allowed.
            ServerUnavailableError: one of several host names is not known.
        """
        self._connection = Connection.of(where)
        self.url = self._connection.url
        self._connection.authorization()  # a file that is not there is a wrong option, and not a failure of each call
        self._channel = open_channel(self._connection)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._regions = Regions(self._stub, self.url, self._metadata) if self._connection.shared_memory else None
        self._known = False  # reached at least once
        self._reached = False  # and not lost since
        self._open = True

    def check_ready(self, model: str, timeout_s: float) -> None:
        self._wait(self._ready_call(model, timeout_s))

    def start_check_ready(self, model: str, timeout_s: float) -> Future[None]:
        return self._start(self._ready_call(model, timeout_s))

    def infer(self, model: str, inputs: Arrays, outputs: Sequence[str], timeout_s: float) -> dict[str, NDArray[Any]]:
        return self._wait(self._infer_call(model, inputs, outputs, timeout_s))

    def start_infer(
        self, model: str, inputs: Arrays, outputs: Sequence[str], timeout_s: float
    ) -> Future[dict[str, NDArray[Any]]]:
        return self._start(self._infer_call(model, inputs, outputs, timeout_s))

    def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        answer = self._told(self._stub.ModelConfig, pb.ModelConfigRequest(name=model), timeout_s)
        config: dict[str, Any] = MessageToDict(answer.config, preserving_proto_field_name=True)
        return config

    def server_status(self, timeout_s: float) -> dict[str, Any]:
        server = self._told(self._stub.ServerMetadata, pb.ServerMetadataRequest(), timeout_s)
        memory = self._told(self._stub.SystemSharedMemoryStatus, pb.SystemSharedMemoryStatusRequest(), timeout_s)
        return {
            "name": server.name,
            "version": server.version,
            "extensions": list(server.extensions),
            "shared_memory_regions": len(memory.regions),
        }

    def close(self) -> None:
        self._open = False
        if self._regions:
            self._regions.close()
        self._channel.close()

    # --- what is asked -----------------------------------------------------------------------------------------------
    def _ready_call(self, model: str, timeout_s: float) -> _Call[None]:
        wait_for_ready = self._known
        limit_s = min(timeout_s, RECOVERY_S) if wait_for_ready else timeout_s

        def answer(response: pb.ModelReadyResponse) -> None:
            if not response.ready:
                raise ServerUnavailableError(f"the server at {self.url} is not ready: model {model!r} is not served")
            self._known = self._reached = True

        def failure(error: grpc.RpcError) -> ImgevalError:
            if wait_for_ready and error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return ServerUnavailableError(f"no server at {self.url}: lost, and not back within {limit_s:g} s")
            return self._refusal(error) or ServerUnavailableError(f"no server at {self.url}: {_message(error)}")

        request = pb.ModelReadyRequest(name=model)
        return _Call(
            self._stub.ModelReady, request, self._metadata(), limit_s, answer, failure, wait_for_ready=wait_for_ready
        )

    def _infer_call(
        self, model: str, inputs: Arrays, outputs: Sequence[str], timeout_s: float
    ) -> _Call[dict[str, NDArray[Any]]]:
        metadata = self._metadata()
        request = pb.ModelInferRequest(model_name=model)
        lent: list[Region] = []
        request.outputs.extend(pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in outputs)
        for name, array in inputs.items():
            tensor = request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
            content = _serialized(array)
            if self._regions and len(content) >= MIN_SHARED_BYTES:
                lent.append(self._regions.lend(content))
                tensor.parameters["shared_memory_region"].string_param = lent[-1].name
                tensor.parameters["shared_memory_byte_size"].int64_param = len(content)
            else:
                request.raw_input_contents.append(content)
        reached = self._reached  # before this call

        def answer(response: pb.ModelInferResponse) -> dict[str, NDArray[Any]]:
            self._known = self._reached = True
            result = InferResult(response)
            return {name: self._output(result, name) for name in outputs}

        def failure(error: grpc.RpcError) -> ImgevalError:
            return self._refusal(error) or self._inference_failure(error, timeout_s, reached, lent)

        def end(answered: bool) -> None:
            for region in lent:
                region.give_back(answered=answered)

        return _Call(self._stub.ModelInfer, request, metadata, timeout_s, answer, failure, end)

    def _told(self, method: Any, request: Any, timeout_s: float) -> Any:
        """The server's answer to a question about itself."""

        def failure(error: grpc.RpcError) -> ImgevalError:
            return self._refusal(error) or self._inference_failure(error, timeout_s, reached=False)

        return self._wait(_Call(method, request, self._metadata(), timeout_s, lambda response: response, failure))

    def _output(self, result: InferResult, name: str) -> NDArray[Any]:
        try:
            array = result.as_numpy(name)
        except (ValueError, TypeError, struct.error) as error:  # tritonclient trusts sizes and types
            raise ServerFailedError(f"the server at {self.url} garbled the output {name}: {error}") from error
        if array is None:
            raise ServerFailedError(f"the server at {self.url} left out the output {name}")
        return np.asarray(array)

    # --- how it is asked ---------------------------------------------------------------------------------------------
    def _wait(self, call: _Call[T]) -> T:
        """Not `_start` and its result: gRPC needs 0.8 ms more to wake the thread that waits for a future."""
        answered = False
        try:
            response = call.method(call.request, **call.how)
            answered = True
        except grpc.RpcError as error:
            answered = _is_answer(error)
            raise call.failure(error) from error
        except ValueError as error:
            raise self._closed() from error
        finally:
            call.end(answered)
        return call.answer(response)

    def _start(self, call: _Call[T]) -> Future[T]:
        try:
            started = call.method.future(call.request, **call.how)
        except ValueError as error:
            call.end(False)
            raise self._closed() from error
        future: Future[T] = Future()

        def settle(_: object) -> None:
            call.end(started.code() is grpc.StatusCode.OK or _is_answer(started))
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(call.answer(started.result()))
            except grpc.RpcError as error:
                future.set_exception(call.failure(error))
            except grpc.FutureCancelledError:
                future.set_exception(self._closed())
            except Exception as error:  # noqa: BLE001 - it is whoever waits for the future that must see it
                future.set_exception(error)

        future.add_done_callback(lambda ended: ended.cancelled() and started.cancel())
        started.add_done_callback(settle)
        return future

    def _metadata(self) -> tuple[tuple[str, str], ...]:
        try:
            value = self._connection.authorization()
        except InvalidInputError as error:  # it was there before: whoever renews it may be at it just now
            raise ServerUnavailableError(f"no authorization for {self.url}: {error}") from error
        return () if value is None else (("authorization", value),)

    # --- what a failure means ----------------------------------------------------------------------------------------
    def _closed(self) -> ImgevalError:
        return ServerUnavailableError(f"the connection to {self.url} was closed")

    def _refusal(self, error: grpc.RpcError) -> ImgevalError | None:
        """Of the client, whatever it asked."""
        status = error.code()
        if status in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED):
            given = "the authorization given" if self._connection.has_token else "a client without authorization"
            return ServerUnavailableError(f"the server at {self.url} refused {given}: {status.name}: {_message(error)}")
        return None if self._open else self._closed()

    def _inference_failure(
        self, error: grpc.RpcError, timeout_s: float, reached: bool, lent: Sequence[Region] = ()
    ) -> ImgevalError:
        status, message = error.code(), _message(error)
        if self._regions and lent and "shared memory region" in message:
            self._regions.forget(lent[0].age)
            return ServerLostError(f"the server at {self.url} was restarted and has lost the image: {message}")
        if status is grpc.StatusCode.INVALID_ARGUMENT:
            # "in ensemble 'imgeval', preprocess: IMAGE: got ..." -> the field and what is wrong with it
            match = re.search(r"(IMAGE|PROMPT): (.*)", message)
            return InvalidInputError(*match.groups()) if match else InvalidInputError("request", message)
        if status is grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceededError(f"the server at {self.url} gave no answer within {timeout_s:g} s")
        if status is grpc.StatusCode.UNAVAILABLE and any(sign in message.lower() for sign in NOT_CONNECTED):
            self._reached = False
            if not reached:
                return ServerUnavailableError(f"no server at {self.url}: {message}")
            # It was there when this request was sent: it died of it or beside it, and no attempt since found another.
        kind = ServerLostError if status is grpc.StatusCode.UNAVAILABLE else ServerFailedError
        return kind(f"the server at {self.url} failed: {status.name}: {message}")


def _serialized(array: NDArray[Any]) -> bytes:
    """As Triton takes it. tritonclient does the same to BYTES with three more copies of an image."""
    if array.dtype != np.object_:
        return array.tobytes()
    return b"".join(part for each in array.flat for part in (len(each).to_bytes(4, "little"), each))


def _is_answer(error: grpc.RpcError) -> bool:
    """Whether the server is through with the request. Of what is cancelled or late nobody knows."""
    unknown = (grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
    return error.code() not in unknown


def _message(error: grpc.RpcError) -> str:
    return " ".join((error.details() or "no reason given").split())
