"""imgeval.channel: TLS, tokens, several servers, servers that are killed and come back; real connections throughout."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from tritonclient.grpc import service_pb2 as pb

from imgeval import Client, Connection, InvalidInputError, ServerFailedError, ServerUnavailableError, channel
from imgeval.channel import open_channel
from imgeval.transport import GrpcTransport
from tests.conftest import free_port
from tests.fake_transport import DETAILS
from tests.fake_triton import Handler, killable, scoring, serving

LARGE = bytes(3_000_000)  # more than gRPC keeps by itself for another attempt
PATIENT_S = 20.0
SECRET = "s3cret-t0ken"


def ask(connection: Connection, image: bytes = b"image") -> float | None:
    with Client(connection, timeout_s=PATIENT_S) as client:
        return client.score(image, "a dog").score


class Files:
    """Certificates as the files that options name."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.authority = trustme.CA()
        self.ca = self.write("ca", self.authority.cert_pem)
        self.stranger = self.write("stranger", trustme.CA().cert_pem)
        self.cert, self.key = self.issued(self.authority, "client")

    def write(self, name: str, blob: trustme.Blob) -> Path:
        blob.write_to_path(path := self._folder / f"{name}.pem")
        return path

    def issued(self, authority: trustme.CA, name: str) -> tuple[Path, Path]:
        issued = authority.issue_cert(f"{name}.example")
        return self.write(name, issued.cert_chain_pems[0]), self.write(f"{name}-key", issued.private_key_pem)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("certificates"))


@contextmanager
def secure(files: Files, *names: str, mutual: bool = False, authorization: str | None = None) -> Iterator[str]:
    """A server with TLS and a certificate for these names."""
    issued = files.authority.issue_cert(*names)
    pair = (issued.private_key_pem.bytes(), b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    credentials = grpc.ssl_server_credentials([pair], files.authority.cert_pem.bytes() if mutual else None, mutual)
    with serving(scoring(DETAILS), credentials=credentials, authorization=authorization) as url:
        yield url


# --- TLS -------------------------------------------------------------------------------------------------------------
def test_tls_with_the_right_root(files: Files) -> None:
    with secure(files, "127.0.0.1") as url:
        assert ask(Connection(url, ca_cert=files.ca)) == 0.4


def test_tls_by_the_name_in_the_certificate(files: Files) -> None:
    with secure(files, "scores.example") as url:
        assert ask(Connection(url, ca_cert=files.ca, server_name="scores.example")) == 0.4
        with secure(files, "scores.example") as other:
            assert ask(Connection([url, other], ca_cert=files.ca, server_name="scores.example")) == 0.4


def wrong_root(files: Files, url: str) -> Connection:
    return Connection(url, ca_cert=files.stranger)


def the_systems_roots(files: Files, url: str) -> Connection:
    return Connection(url, tls=True)


def wrong_name(files: Files, url: str) -> Connection:
    return Connection(url, ca_cert=files.ca, server_name="other.example")


def no_tls(files: Files, url: str) -> Connection:
    return Connection(url)


@pytest.mark.parametrize("connection", [wrong_root, the_systems_roots, wrong_name, no_tls])
def test_a_server_that_is_not_trusted_is_no_server(
    files: Files, connection: Callable[[Files, str], Connection]
) -> None:
    with (
        secure(files, "127.0.0.1") as url,
        pytest.raises(ServerUnavailableError, match=f"no server at {url}") as failed,
    ):
        ask(connection(files, url))
    print(failed.value)
    assert "\n" not in str(failed.value)


def test_tls_to_a_server_without_it(files: Files) -> None:
    with serving(scoring(DETAILS)) as url, pytest.raises(ServerUnavailableError, match="no server at"):
        ask(Connection(url, ca_cert=files.ca))


def test_mutual_tls(files: Files, tmp_path: Path) -> None:
    other = Files(tmp_path)
    with secure(files, "127.0.0.1", mutual=True) as url:
        assert ask(Connection(url, ca_cert=files.ca, client_cert=files.cert, client_key=files.key)) == 0.4
        for own in ({}, {"client_cert": other.cert, "client_key": other.key}):
            with pytest.raises(ServerUnavailableError, match="no server at"):
                ask(Connection(url, ca_cert=files.ca, **own))


def test_certificates_that_are_none_are_refused(files: Files, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no certificate")
    (tmp_path / "bytes").write_bytes(b"\xff\x00")
    _, other_key = files.issued(files.authority, "another")
    for options, field, problem in (
        ({"ca_cert": tmp_path / "absent"}, "ca_cert", "cannot be read"),
        ({"ca_cert": tmp_path / "text"}, "ca_cert", "holds no PEM certificates"),
        ({"ca_cert": tmp_path / "bytes"}, "ca_cert", "holds no PEM certificates"),
        ({"client_cert": files.cert, "client_key": tmp_path / "absent"}, "client_key", "cannot be read"),
        ({"client_cert": files.cert, "client_key": other_key}, "client_cert", "are no PEM certificate and its key"),
        ({"client_cert": files.key, "client_key": files.key}, "client_cert", "are no PEM certificate and its key"),
    ):
        with pytest.raises(InvalidInputError, match=problem) as refused:
            GrpcTransport(Connection("localhost:1", **options))  # type: ignore[arg-type]
        assert refused.value.field == field


# --- authorization ---------------------------------------------------------------------------------------------------
def test_the_right_token(files: Files, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{SECRET}\n")
    with secure(files, "127.0.0.1", authorization=f"Bearer {SECRET}") as url:
        assert ask(Connection(url, ca_cert=files.ca, token=SECRET)) == 0.4
        assert ask(Connection(url, ca_cert=files.ca, token_file=tmp_path / "token")) == 0.4


def test_a_wrong_token_and_none(files: Files) -> None:
    with secure(files, "127.0.0.1", authorization=f"Bearer {SECRET}") as url:
        with pytest.raises(
            ServerUnavailableError, match="refused the authorization given: UNAUTHENTICATED: who"
        ) as failed:
            ask(Connection(url, ca_cert=files.ca, token="wr0ng"))
        assert "wr0ng" not in str(failed.value)
        with pytest.raises(ServerUnavailableError, match="refused a client without authorization"):
            ask(Connection(url, ca_cert=files.ca))


def test_a_token_that_is_renewed_in_its_file_is_used_at_once(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("old")
    with (
        serving(scoring(DETAILS), authorization="Bearer new") as url,
        Client(Connection(url, token_file=tmp_path / "token")) as client,
    ):
        with pytest.raises(ServerUnavailableError, match="refused"):
            client.score(b"image", "a dog")
        (tmp_path / "token").write_text("new")
        assert client.score(b"image", "a dog").score == 0.4


# --- several servers -------------------------------------------------------------------------------------------------
def counting(counts: dict[str, int], name: str) -> Handler:
    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        counts[name] = counts.get(name, 0) + 1
        return scoring(DETAILS)(request, context)

    return answer


def test_several_servers_take_turns() -> None:
    counts: dict[str, int] = {}
    with ExitStack() as stack:
        urls = [stack.enter_context(serving(counting(counts, name))) for name in "abc"]
        urls[0] = urls[0].replace("127.0.0.1", "localhost")
        client = stack.enter_context(Client(urls))
        assert client.url == ",".join(urls)
        client.score(b"image", "a dog")
        time.sleep(0.5)  # all three are connected
        counts.clear()
        for _ in range(30):
            client.score(b"image", "a dog")
    print(counts)
    assert counts == {"a": 10, "b": 10, "c": 10}


def test_one_of_several_is_enough(unused_port: int) -> None:
    with serving(scoring(DETAILS)) as url, Client(f"127.0.0.1:{unused_port},{url}") as client:
        assert len([client.score(b"image", "a dog") for _ in range(10)]) == 10


def test_all_addresses_of_a_name_take_turns(unused_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[str, int] = {}
    hosts = ("127.0.0.1", "127.0.0.2")
    with ExitStack() as stack:
        name_server = stack.enter_context(NameServer(*hosts))
        # As gRPC looks up every name, but with this name server instead of the machine's.
        monkeypatch.setattr(channel, "_target", lambda addresses: f"dns://{name_server.url}/{addresses[0]}")
        for host in hosts:
            stack.enter_context(serving(counting(counts, host), address=f"{host}:{unused_port}"))
        client = stack.enter_context(Client(f"scores.example:{unused_port}"))
        client.score(b"image", "a dog")
        time.sleep(0.5)  # both are connected
        counts.clear()
        for _ in range(10):
            client.score(b"image", "a dog")
    assert counts == dict.fromkeys(hosts, 5)


class NameServer:
    """Answers every question for an IPv4 address with the same few."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> NameServer:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _run(self) -> None:
        while True:
            try:
                query, asker = self._socket.recvfrom(4096)
            except OSError:
                return
            end = query.index(b"\0", 12) + 5  # of the question: name, type, class
            found = self._addresses if query[end - 4 : end - 2] == b"\0\1" else ()
            counts = struct.pack(">HHHH", 1, len(found), 0, 0)
            record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4"  # the question's name, A, IN, 60 s, 4 bytes
            records = b"".join(record + socket.inet_aton(address) for address in found)
            self._socket.sendto(query[:2] + b"\x81\x80" + counts + query[12:end] + records, asker)


def test_names_that_are_unknown_and_versions_that_differ() -> None:
    with pytest.raises(ServerUnavailableError, match=r"no server at no-such-host\.invalid:1: "):
        open_channel(Connection("127.0.0.1:1,no-such-host.invalid:1"))
    with pytest.raises(InvalidInputError, match="allowed: IPv4 or IPv6, not both"):
        open_channel(Connection("127.0.0.1:1,[::1]:1"))


# --- a server that goes ----------------------------------------------------------------------------------------------
def test_killed_during_a_request_and_started_again(unused_port: int) -> None:
    with killable(unused_port, DETAILS) as server, Client(server.url, timeout_s=PATIENT_S) as client:
        server.start(delay_s=60)
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.score, LARGE, "a dog")
            server.wait_until_asked()
            server.kill()
            server.start()
            assert answer.result().score == 0.4
        server.kill()
        server.start()
        assert client.score(LARGE, "a dog").score == 0.4, "and between two requests"


def test_killed_during_a_request_while_another_is_there() -> None:
    with killable(free_port(), DETAILS) as first, killable(free_port(), DETAILS) as second:
        first.start(delay_s=60)
        second.start()
        with Client([first.url, second.url], timeout_s=PATIENT_S) as client, ThreadPoolExecutor(4) as pool:
            answers = [pool.submit(client.score, LARGE, "a dog") for _ in range(4)]
            first.wait_until_asked()
            first.kill()
            assert [answer.result().score for answer in answers] == [0.4] * 4


def test_killed_for_good_is_the_servers_failure_and_then_no_server(unused_port: int) -> None:
    with killable(unused_port, DETAILS) as server:
        connection = Connection(server.url, max_attempts=2)
        with Client(connection, timeout_s=PATIENT_S) as client, ThreadPoolExecutor(1) as pool:
            server.start(delay_s=60)
            answer = pool.submit(client.score, LARGE, "a dog")
            server.wait_until_asked()
            server.kill()
            with pytest.raises(ServerFailedError, match="failed: UNAVAILABLE"):
                answer.result()
            with pytest.raises(ServerUnavailableError, match="no server at"):
                client.score(LARGE, "a dog")
            server.start()
            assert client.score(LARGE, "a dog").score == 0.4


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (grpc.StatusCode.UNAVAILABLE, 3),
        (grpc.StatusCode.INTERNAL, 1),
        (grpc.StatusCode.INVALID_ARGUMENT, 1),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, 1),
        (grpc.StatusCode.DEADLINE_EXCEEDED, 1),
    ],
)
def test_only_what_no_server_answered_is_asked_again(status: grpc.StatusCode, asked: int) -> None:
    counts: list[int] = []

    def refuse(request: Any, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        counts.append(1)
        context.abort(status, "no")

    with (
        serving(refuse) as url,
        Client(Connection(url, max_attempts=3)) as client,
        pytest.raises((ServerFailedError, InvalidInputError)),
    ):
        client.score(b"image", "a dog")
    assert len(counts) == asked


def test_one_deadline_for_all_attempts() -> None:
    def refuse(request: Any, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        context.abort(grpc.StatusCode.UNAVAILABLE, "no")

    with (
        serving(refuse) as url,
        Client(Connection(url, max_attempts=5), timeout_s=0.5) as client,
        pytest.raises(ServerFailedError, match=r"no answer within 0\.5 s"),
    ):
        client.score(b"image", "a dog")


# --- ends ------------------------------------------------------------------------------------------------------------
def test_closing_ends_what_is_under_way_on_the_server_too() -> None:
    asked, ended = threading.Event(), threading.Event()

    def wait(request: Any, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        context.add_callback(ended.set)
        asked.set()
        assert ended.wait(PATIENT_S)
        return pb.ModelInferResponse()

    with serving(wait) as url, ThreadPoolExecutor(1) as pool:
        client = Client(url)
        answer = pool.submit(client.score, b"image", "a dog")
        assert asked.wait(PATIENT_S)
        assert not ended.is_set()
        client.close()
        with pytest.raises(ServerUnavailableError, match=r"the connection to 127\..* was closed"):
            answer.result()
        assert ended.wait(PATIENT_S), "the server was not told"
        with pytest.raises(ServerUnavailableError, match="was closed"):
            client.score(b"image", "a dog")


# --- compression -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("compression", ["none", "gzip", "deflate"])
def test_what_is_sent_is_compressed(compression: Any) -> None:
    images: list[bytes] = []

    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        images.append(request.raw_input_contents[0])
        return scoring(DETAILS)(request, context)

    with serving(answer) as url, Relay(url) as relay:
        assert ask(Connection(relay.url, compression=compression), LARGE) == 0.4
    print(compression, relay.sent_bytes)
    assert images[0][4:] == LARGE
    assert (relay.sent_bytes > len(LARGE)) == (compression == "none")


class Relay:
    """Passes one connection on to a server and counts what the client sends."""

    def __init__(self, url: str) -> None:
        host, _, port = url.rpartition(":")
        self._server = socket.create_connection((host, int(port)))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.sent_bytes = 0

    def __enter__(self) -> Relay:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._listener.close()
        self._server.close()

    def _run(self) -> None:
        with self._listener.accept()[0] as client:
            back = threading.Thread(target=self._pass, args=(self._server, client))
            back.start()
            self.sent_bytes = self._pass(client, self._server)
            back.join()

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket) -> int:
        count = 0
        while part := source.recv(1 << 20):
            count += len(part)
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)
        return count
