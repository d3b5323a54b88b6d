"""Small gRPC servers that speak Triton's protocol and are slow, refuse, die, or answer whatever a test wants."""

from __future__ import annotations

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


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Ready or not, and answering each inference by one function."""

    def __init__(self, handler: Handler, ready: bool) -> None:
        self._handler, self._ready = handler, ready

    def ModelReady(self, request: Any, context: grpc.ServicerContext) -> pb.ModelReadyResponse:  # noqa: N802 - gRPC's
        return pb.ModelReadyResponse(ready=self._ready)

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> pb.ModelInferResponse:  # noqa: N802 - gRPC's
        return self._handler(request, context)


@contextmanager
def serving(handler: Handler, *, ready: bool = True) -> Iterator[str]:
    """A server in this process; yields its HOST:PORT. It takes messages of any size."""
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(8), options=options)
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Servicer(handler, ready), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
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


def refusing(code: grpc.StatusCode, message: str) -> Handler:
    return lambda request, context: context.abort(code, message)


def answering(*outputs: tuple[str, str, list[int], bytes]) -> Handler:
    """An answer of (name, type, shape, raw bytes) each, whatever the request asked for."""
    tensors = [pb.ModelInferResponse.InferOutputTensor(name=n, datatype=t, shape=s) for n, t, s, _ in outputs]
    raw = [content for *_, content in outputs]
    return lambda request, context: pb.ModelInferResponse(
        model_name="imgeval", outputs=tensors, raw_output_contents=raw
    )
