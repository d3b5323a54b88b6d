"""imgeval.transport: the real server, and small servers that are slow, die, or answer nonsense."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as pb

from imgeval import DeadlineExceededError, InvalidInputError, ServerFailedError, ServerUnavailableError, channel
from imgeval.embedded.server import EmbeddedServer
from imgeval.embedded.supervisor import requests_served
from imgeval.errors import ImgevalError, ServerLostError
from imgeval.transport import GrpcTransport
from tests.fake_triton import Handler, answering, dying, refusing, serving

INPUTS = {"IMAGE": np.array([[b"image"]], dtype=np.object_), "PROMPT": np.array([[b"a dog"]], dtype=np.object_)}
PATIENT_S = 20.0


@contextmanager
def connected(url: str) -> Iterator[GrpcTransport]:
    transport = GrpcTransport(url)
    try:
        yield transport
    finally:
        transport.close()


@contextmanager
def talking_to(handler: Handler, *, ready: bool = True) -> Iterator[GrpcTransport]:
    with serving(handler, ready=ready) as url, connected(url) as transport:
        yield transport


# --- a real server ---------------------------------------------------------------------------------------------------
def test_the_real_server_answers_with_what_was_asked_for(server: EmbeddedServer, photos: dict[str, bytes]) -> None:
    with connected(server.url) as transport:
        transport.check_ready("imgeval", PATIENT_S)
        image = np.array([[photos["rocket.jpg"]]], dtype=np.object_)
        answer = transport.infer("imgeval", {**INPUTS, "IMAGE": image}, ["CLIP", "DETAILS"], PATIENT_S)
    assert {name: (array.shape, array.dtype.kind) for name, array in answer.items()} == {
        "CLIP": ((1, 1), "f"),
        "DETAILS": ((1, 1), "O"),
    }


@pytest.mark.parametrize(
    ("changed", "field", "problem"),
    [
        ({"IMAGE": b"no image"}, "IMAGE", "got 8 unreadable bytes"),
        ({"PROMPT": b" "}, "PROMPT", "got blank text"),
        ({"PROMPT": b"\xff"}, "PROMPT", "not UTF-8"),
    ],
)
def test_the_real_servers_refusals_name_the_field(
    server: EmbeddedServer, photos: dict[str, bytes], changed: dict[str, bytes], field: str, problem: str
) -> None:
    values = {"IMAGE": photos["rocket.jpg"], "PROMPT": b"a rocket"} | changed
    inputs = {name: np.array([[value]], dtype=np.object_) for name, value in values.items()}
    with connected(server.url) as transport, pytest.raises(InvalidInputError, match=problem) as refused:
        transport.infer("imgeval", inputs, ["SCORE"], PATIENT_S)
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}: got"), "the steps' names are the server's business"
    assert refused.value.exit_code == 2


def test_the_real_server_refuses_what_the_contract_does_not_have(server: EmbeddedServer) -> None:
    with connected(server.url) as transport:
        with pytest.raises(InvalidInputError, match=r"request: .*BEAUTY"):
            transport.infer("imgeval", INPUTS, ["BEAUTY"], PATIENT_S)
        with pytest.raises(InvalidInputError, match=r"^(PROMPT|request): "):
            transport.infer("imgeval", {"IMAGE": INPUTS["IMAGE"]}, ["SCORE"], PATIENT_S)
        with pytest.raises(ServerUnavailableError, match="model 'beauty' is not served"):
            transport.check_ready("beauty", PATIENT_S)


# --- no server -------------------------------------------------------------------------------------------------------
def test_the_real_server_tells_its_configuration_and_status(server: EmbeddedServer) -> None:
    with connected(server.url) as transport:
        config = transport.model_config("imgeval", PATIENT_S)
        status = transport.server_status(PATIENT_S)
        with pytest.raises(ServerFailedError, match="nonesuch"):
            transport.model_config("nonesuch", PATIENT_S)
    assert (config["name"], config["parameters"]["profile"]) == ("imgeval", {"string_value": "starter"})
    assert (status["name"], status["shared_memory_regions"]) == ("triton", 0)
    assert "system_shared_memory" in status["extensions"]


def test_a_server_without_these_calls_has_failed() -> None:
    with talking_to(answering()) as transport:
        for call in (lambda: transport.model_config("imgeval", PATIENT_S), lambda: transport.server_status(PATIENT_S)):
            with pytest.raises(ServerFailedError, match="UNIMPLEMENTED"):
                call()


def test_where_nothing_listens_no_server_is_available(unused_port: int) -> None:
    with connected(f"127.0.0.1:{unused_port}") as transport:
        for call in (
            lambda: transport.check_ready("imgeval", PATIENT_S),
            lambda: transport.infer("imgeval", INPUTS, ["SCORE"], PATIENT_S),
        ):
            with pytest.raises(ServerUnavailableError, match=f"no server at 127.0.0.1:{unused_port}: ") as failed:
                call()
            assert failed.value.exit_code == 3
            assert "\n" not in str(failed.value)


def test_an_unknown_host_is_no_server() -> None:
    with connected("no-such-host.invalid:8001") as transport, pytest.raises(ServerUnavailableError, match="no server"):
        transport.check_ready("imgeval", PATIENT_S)


def test_a_model_that_is_not_ready_is_not_available() -> None:
    with talking_to(answering(), ready=False) as transport, pytest.raises(ServerUnavailableError, match="is not ready"):
        transport.check_ready("imgeval", PATIENT_S)


def test_something_else_that_listens_is_no_server() -> None:
    def greet(listener: socket.socket) -> None:
        with listener, listener.accept()[0] as peer:
            peer.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    threading.Thread(target=greet, args=(listener,), daemon=True).start()
    with connected(f"127.0.0.1:{port}") as transport, pytest.raises(ServerUnavailableError, match="no server at"):
        transport.check_ready("imgeval", 5.0)


NOT_ADDRESSES = (
    """localhost localhost: :8001 http://localhost:8001 localhost:port u@host:1 host:1/x host:99999 host:0"""
)


@pytest.mark.parametrize("url", ["", "a b:1", *NOT_ADDRESSES.split()])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="allowed: HOST:PORT") as refused:
        GrpcTransport(url).close()
    assert refused.value.field == "url"


# --- a server that fails ---------------------------------------------------------------------------------------------
def test_slow_past_the_deadline() -> None:
    release = threading.Event()

    def wait(request: Any, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        release.wait(PATIENT_S)
        return pb.ModelInferResponse()

    with talking_to(wait) as transport:
        transport.check_ready("imgeval", PATIENT_S)
        with pytest.raises(DeadlineExceededError, match=r"gave no answer within 0\.2 s") as failed:
            transport.infer("imgeval", INPUTS, ["SCORE"], 0.2)
        release.set()
    assert failed.value.exit_code == 4


def test_dies_mid_request() -> None:
    with dying() as url, connected(url) as transport:
        transport.check_ready("imgeval", PATIENT_S)
        with pytest.raises(ServerFailedError, match="failed: UNAVAILABLE") as failed:
            transport.infer("imgeval", INPUTS, ["SCORE"], PATIENT_S)
    assert not isinstance(failed.value, DeadlineExceededError)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize(
    ("code", "message", "expected"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "in ensemble 'imgeval', preprocess: IMAGE: got\nx", "IMAGE: got x"),
        (grpc.StatusCode.INVALID_ARGUMENT, "preprocess: item 3: PROMPT: got blank text", "PROMPT: got blank text"),
        (grpc.StatusCode.INVALID_ARGUMENT, "unexpected shape", "request: unexpected shape"),
        (grpc.StatusCode.INTERNAL, "iqa: ValueError:\n  bad", "failed: INTERNAL: iqa: ValueError: bad"),
        (grpc.StatusCode.UNAVAILABLE, "shutting down", "failed: UNAVAILABLE: shutting down"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", "failed: RESOURCE_EXHAUSTED: "),
        (grpc.StatusCode.UNIMPLEMENTED, "what?", "failed: UNIMPLEMENTED: what?"),
    ],
)
def test_every_status_becomes_one_typed_line(code: grpc.StatusCode, message: str, expected: str) -> None:
    kind = InvalidInputError if code is grpc.StatusCode.INVALID_ARGUMENT else ServerFailedError
    with talking_to(refusing(code, message)) as transport, pytest.raises(kind) as failed:
        transport.infer("imgeval", INPUTS, ["SCORE"], PATIENT_S)
    assert expected in str(failed.value)
    assert "\n" not in str(failed.value)
    assert isinstance(failed.value, ServerLostError) is (code is grpc.StatusCode.UNAVAILABLE)


@pytest.mark.parametrize(
    "handler",
    [
        answering(),
        answering(("CLIP", "FP32", [1, 1], bytes(4))),
        answering(("SCORE", "FP32", [1, 1], b"")),
        answering(("SCORE", "FP32", [1, 1], bytes(3))),
        answering(("SCORE", "FP32", [2, 3], bytes(4))),
        answering(("SCORE", "BYTES", [1, 1], b"\xff\xff\xff\xffx")),
        answering(("SCORE", "BYTES", [1, 1], b"\x01")),
        answering(("SCORE", "WHATEVER", [1, 1], bytes(4))),
    ],
    ids=["nothing", "another", "empty", "cut", "wrong shape", "wrong length", "cut length", "unknown type"],
)
def test_a_garbled_answer_is_the_servers_fault(handler: Handler) -> None:
    with talking_to(handler) as transport, pytest.raises(ServerFailedError, match="the server at 127"):
        transport.infer("imgeval", INPUTS, ["SCORE"], PATIENT_S)


def test_a_failure_does_not_end_the_connection() -> None:
    answers: list[Handler] = [refusing(grpc.StatusCode.INTERNAL, "once")]
    good = answering(("SCORE", "FP32", [1, 1], np.float32(0.5).tobytes()))

    with talking_to(lambda request, context: (answers.pop() if answers else good)(request, context)) as transport:
        with pytest.raises(ImgevalError, match="once"):
            transport.infer("imgeval", INPUTS, ["SCORE"], PATIENT_S)
        assert transport.infer("imgeval", INPUTS, ["SCORE"], PATIENT_S)["SCORE"].tolist() == [[0.5]]


def test_large_messages_pass_both_ways() -> None:
    """Beyond gRPC's own limit of 4 MiB: the largest image allowed, and as large an answer."""
    size = 32 * 1024 * 1024

    def echo(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        return answering(("DETAILS", "BYTES", [1, 1], request.raw_input_contents[0]))(request, context)

    image = np.array([[bytes(size)]], dtype=np.object_)
    with talking_to(echo) as transport:
        answer = transport.infer("imgeval", {"IMAGE": image}, ["DETAILS"], PATIENT_S)
    assert len(answer["DETAILS"].item()) == size


def test_one_transport_serves_many_threads() -> None:
    def double(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        time.sleep(0.01)
        value = np.frombuffer(request.raw_input_contents[0], np.float32)
        return answering(("SCORE", "FP32", [1, 1], (2 * value).tobytes()))(request, context)

    with talking_to(double) as transport, futures.ThreadPoolExecutor(8) as pool:
        inputs = [{"X": np.array([[number]], np.float32)} for number in range(32)]
        answers = pool.map(lambda each: transport.infer("imgeval", each, ["SCORE"], PATIENT_S), inputs)
        assert [answer["SCORE"].item() for answer in answers] == [2.0 * number for number in range(32)]


def test_a_proxy_in_the_environment_does_not_hide_this_machine(
    server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    transport = GrpcTransport(server.url)
    transport.check_ready("imgeval", 10)
    transport.close()
    assert requests_served(f"http://127.0.0.1:{server.metrics_port}/metrics") is not None


def test_pings_stay_below_what_a_triton_server_takes() -> None:
    """Its `--grpc-http2-min-recv-ping-interval-without-data` is 300,000 ms by default; more pings end a connection."""
    assert channel.KEEPALIVE_TIME_MS > 300_000
