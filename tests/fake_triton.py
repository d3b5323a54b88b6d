"""Small gRPC servers that speak Triton's protocol and are slow, refuse, die, or answer whatever a test wants.

They may have TLS and demand a token, and one in a process of its own can be killed and started again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

Handler = Callable[[pb.ModelInferRequest, grpc.ServicerContext], pb.ModelInferResponse]

_DYING_SERVER = """
import os, sys, grpc
from concurrent import futures
from tritonclient.grpc import service_pb2 as pb, service_pb2_grpc
class Dying(service_pb2_grpc.GRPCInferenceServiceServicer):
    def ModelReady(self, request, context):
        return pb.ModelReadyResponse(ready=True)
    def ModelInfer(self, request, context):
        os._exit(1)
server = grpc.server(futures.ThreadPoolExecutor())
service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Dying(), server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
"""

_KILLABLE_SERVER = """
import sys, time, grpc
from concurrent import futures
from tritonclient.grpc import service_pb2 as pb, service_pb2_grpc
port, delay_s, details = sys.argv[1], float(sys.argv[2]), sys.argv[3].encode()
class Killable(service_pb2_grpc.GRPCInferenceServiceServicer):
    def ModelReady(self, request, context):
        return pb.ModelReadyResponse(ready=True)
    def ModelInfer(self, request, context):
        print("asked", flush=True)
        time.sleep(delay_s)
        answer = pb.ModelInferResponse(raw_output_contents=[len(details).to_bytes(4, "little") + details])
        answer.outputs.add(name="DETAILS", datatype="BYTES", shape=[1, 1])
        return answer
server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", -1)])
service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Killable(), server)
assert server.add_insecure_port(f"127.0.0.1:{port}")
server.start()
print("ready", flush=True)
sys.stdin.read()
"""


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Ready or not, and answering each inference by one function."""

    def __init__(self, handler: Handler, ready: bool, authorization: str | None = None) -> None:
        self._handler, self._ready, self._authorization = handler, ready, authorization

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> pb.ModelReadyResponse:  # noqa: N802 - gRPC's
        self._authorize(context)
        return pb.ModelReadyResponse(ready=self._ready)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> pb.ModelInferResponse:  # noqa: N802 - gRPC's
        self._authorize(context)
        return self._handler(request, context)

    def _authorize(self, context: grpc.ServicerContext) -> None:
        if self._authorization not in (None, dict(context.invocation_metadata()).get("authorization")):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "who are you?")


@contextmanager
def serving(
    handler: Handler,
    *,
    ready: bool = True,
    address: str = "127.0.0.1:0",
    authorization: str | None = None,
    credentials: grpc.ServerCredentials | None = None,
    servicer: type[Servicer] = Servicer,
) -> Iterator[str]:
    """A server in this process; yields its HOST:PORT. It takes messages of any size."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer(handler, ready, authorization), server)
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield f"{address.rpartition(':')[0]}:{port}"
    finally:
        server.stop(grace=0).wait()


@contextmanager
def dying() -> Iterator[str]:
    """A server, in a process of its own, that dies of the first inference; yields its HOST:PORT."""
    with subprocess.Popen(
        [sys.executable, "-c", _DYING_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        yield f"127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()
        assert process.wait() == 1, "it has not died"


class Killable:
    """A server in a process of its own, on one port through all its lives; answers with its DETAILS after a while."""

    def __init__(self, port: int, details: dict[str, Any]) -> None:
        self.url = f"127.0.0.1:{port}"
        self._port, self._details = port, json.dumps(details)
        self._process: subprocess.Popen[str] | None = None

    def start(self, delay_s: float = 0.0) -> None:
        command = [sys.executable, "-c", _KILLABLE_SERVER, str(self._port), str(delay_s), self._details]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._next_line() == "ready"

    def wait_until_asked(self) -> None:
        assert self._next_line() == "asked"

    def kill(self) -> None:
        """At once, as a crash or the system's memory killer would."""
        if self._process:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _next_line(self) -> str:
        assert self._process
        assert self._process.stdout
        return self._process.stdout.readline().strip()


@contextmanager
def killable(port: int, details: dict[str, Any]) -> Iterator[Killable]:
    server = Killable(port, details)
    try:
        yield server
    finally:
        server.kill()


def refusing(code: grpc.StatusCode, message: str) -> Handler:
    return lambda request, context: context.abort(code, message)


def scoring(details: dict[str, Any]) -> Handler:
    """The answer to a request for all metrics."""
    content = json.dumps(details).encode()
    return answering(("DETAILS", "BYTES", [1, 1], len(content).to_bytes(4, "little") + content))


def answering(*outputs: tuple[str, str, list[int], bytes]) -> Handler:
    """An answer of (name, type, shape, raw bytes) each, whatever the request asked for."""
    tensors = [pb.ModelInferResponse.InferOutputTensor(name=n, datatype=t, shape=s) for n, t, s, _ in outputs]
    raw = [content for *_, content in outputs]
    return lambda request, context: pb.ModelInferResponse(
        model_name="imgeval", outputs=tensors, raw_output_contents=raw
    )
