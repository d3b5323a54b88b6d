"""imgeval.remote on a web server of its own: sizes, times, redirects, and what is no URL that may be read."""

from __future__ import annotations

import builtins
import contextlib
import gzip
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import fsspec
import pytest

from imgeval import InvalidInputError, remote
from imgeval.errors import MissingPackageError
from imgeval.remote import PACKAGES, Fetcher, is_url

MAX_BYTES = 100_000
PATIENT_S, SHORT_S = 20.0, 0.3


class Pages(BaseHTTPRequestHandler):
    """What the paths give; `asked` are the requests that came."""

    asked: list[str]
    sent: dict[str, int]
    closing: threading.Event

    def do_GET(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        name, _, argument = self.path[1:].partition("/")
        with contextlib.suppress(OSError):  # the client may have left
            getattr(self, f"page_{name}", self.page_missing)(argument.partition("?")[0])

    def page_bytes(self, size: str) -> None:
        self._head(200, {"Content-Length": size})
        self.wfile.write(b"x" * int(size))

    def page_endless(self, claimed: str) -> None:
        """No length, or a wrong one, and more than anybody wants."""
        self._head(200, {"Content-Length": claimed} if claimed else {})
        for _ in range(2000):
            self.wfile.write(b"x" * 10_000)
            self.sent["endless"] = self.sent.get("endless", 0) + 10_000

    def page_cut(self, argument: str) -> None:
        self._head(200, {"Content-Length": "1000"})
        self.wfile.write(b"x" * 10)

    def page_zipped(self, argument: str) -> None:
        self._head(200, {"Content-Encoding": "gzip"})
        self.wfile.write(gzip.compress(b"x" * 10_000_000))

    def page_silent(self, argument: str) -> None:
        self.closing.wait(PATIENT_S)

    def page_dripping(self, argument: str) -> None:
        self._head(200, {"Content-Length": "100000"})
        while not self.closing.wait(0.05):
            self.wfile.write(b"x")
            self.wfile.flush()

    def page_status(self, status: str) -> None:
        self._head(int(status), {"Content-Length": "0"})

    def page_to(self, where: str) -> None:
        target = {"bytes": "/bytes/7", "file": "file:///etc/hostname", "ftp": "ftp://127.0.0.1/x", "round": "/to/round"}
        self._head(302, {"Location": target[where], "Content-Length": "0"})

    def page_missing(self, argument: str) -> None:
        self._head(404, {"Content-Length": "0"})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for header in headers.items():
            self.send_header(*header)
        self.end_headers()

    def log_message(self, *words: Any) -> None:
        pass


class Web:
    """The server, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.sent: dict[str, int] = {}
        self.closing = threading.Event()
        content = {"asked": self.asked, "sent": self.sent, "closing": self.closing}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("ThesePages", (Pages,), content))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    web = Web()
    yield web
    web.close()


def made(timeout_s: float) -> Iterator[Fetcher]:
    fetcher = Fetcher(timeout_s, MAX_BYTES)
    yield fetcher
    fetcher.close()


@pytest.fixture
def patient() -> Iterator[Fetcher]:
    yield from made(PATIENT_S)


@pytest.fixture
def impatient() -> Iterator[Fetcher]:
    yield from made(SHORT_S)


def test_what_is_there_is_read_by_one_request(web: Web, patient: Fetcher) -> None:
    for size in (0, 1, MAX_BYTES):
        assert patient.fetch(f"{web.url}/bytes/{size}") == b"x" * size
    assert web.asked == ["GET /bytes/0", "GET /bytes/1", f"GET /bytes/{MAX_BYTES}"]
    assert patient.fetch(f"HTTP{web.url[4:]}/bytes/5?signature=a%2Fb::c") == b"x" * 5
    assert patient.fetch(f"{web.url}/bytes/5?name=ä b") == b"x" * 5
    assert web.asked[4] == "GET /bytes/5?name=%C3%A4%20b"
    assert web.asked[3] == "GET /bytes/5?signature=a%2Fb::c", "a signed URL stays as it is"


@pytest.mark.parametrize("page", [f"bytes/{MAX_BYTES + 1}", "endless", "endless/30000000"])
def test_more_than_the_limit_is_refused_and_not_read(web: Web, patient: Fetcher, page: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"IMAGE: {web.url}/{page} has more than the {MAX_BYTES} bytes"):
        patient.fetch(f"{web.url}/{page}")
    time.sleep(0.1)  # what is under way reaches buffers
    assert web.sent.get("endless", 0) < 20_000_000, "the rest was not taken"


def test_a_compressed_answer_is_not_unpacked(web: Web, patient: Fetcher) -> None:
    assert len(patient.fetch(f"{web.url}/zipped")) < MAX_BYTES


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("nothing", "does not exist"),
        ("status/403", "cannot be fetched: .*403"),
        ("status/500", "cannot be fetched: .*500"),
        ("cut", "cannot be fetched: "),
        ("to/round", "cannot be fetched: TooManyRedirects"),
        ("to/file", "cannot be fetched: .*file:///etc/hostname"),
        ("to/ftp", "cannot be fetched: .*ftp://127.0.0.1/x"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(web: Web, patient: Fetcher, page: str, says: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"^IMAGE: {web.url}/{page} {says}") as caught:
        patient.fetch(f"{web.url}/{page}")
    assert "\n" not in str(caught.value)


def test_a_redirect_to_the_web_is_followed(web: Web, patient: Fetcher) -> None:
    assert patient.fetch(f"{web.url}/to/bytes") == b"x" * 7


@pytest.mark.parametrize("page", ["silent", "dripping"])
def test_a_slow_answer_is_given_up(web: Web, impatient: Fetcher, page: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"{web.url}/{page} was not there within {SHORT_S} s"):
        impatient.fetch(f"{web.url}/{page}")


def test_nobody_there(unused_port: int, patient: Fetcher) -> None:
    with pytest.raises(InvalidInputError, match=r"cannot be fetched: ClientConnectorError"):
        patient.fetch(f"http://127.0.0.1:{unused_port}/a.png")


def test_closing_ends_what_is_being_fetched(web: Web) -> None:
    fetcher, problems = Fetcher(PATIENT_S, MAX_BYTES), []

    def fetch() -> None:
        try:
            fetcher.fetch(f"{web.url}/silent")
        except InvalidInputError as error:
            problems.append(error)

    thread = threading.Thread(target=fetch)
    thread.start()
    while not web.asked:
        time.sleep(0.01)
    fetcher.close()
    thread.join(PATIENT_S / 2)
    assert not thread.is_alive()
    assert len(problems) == 1


def test_many_threads_share_one_fetcher(web: Web, patient: Fetcher) -> None:
    sizes: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: sizes.append(len(patient.fetch(f"{web.url}/bytes/{n}")))) for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sizes) == list(range(20))


def test_other_protocols_are_read_in_chunks_and_bounded_too(patient: Fetcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fsspec's own store in memory, which stands for those of the clouds."""
    monkeypatch.setitem(PACKAGES, "memory", "fsspec")
    monkeypatch.setattr(remote, "CHUNK_BYTES", 7)
    store = fsspec.filesystem("memory")
    for size in (20, MAX_BYTES + 1):
        store.pipe(f"/bucket/{size}.png", b"x" * size)
    assert patient.fetch("memory://bucket/20.png") == b"x" * 20
    with pytest.raises(InvalidInputError, match=rf"has more than the {MAX_BYTES} bytes"):
        patient.fetch(f"memory://bucket/{MAX_BYTES + 1}.png")
    with pytest.raises(InvalidInputError, match=r"memory://bucket/none\.png does not exist"):
        patient.fetch("memory://bucket/none.png")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hostname",
        "local:///etc/hostname",
        "LocalFile://x",
        "simplecache::http://127.0.0.1/a.png",
        "zip://a.png::file:///tmp/x.zip",
        "http://127.0.0.1/a::file:///etc/hostname",
        "memory://a",
        "ftp://127.0.0.1/a",
        "reference://x",
        "dir::file:///etc",
        "s3://bucket/x::file:///etc/hostname",
    ],
)
def test_other_protocols_and_chains_are_refused(patient: Fetcher, url: str) -> None:
    assert is_url(url)
    with pytest.raises(
        InvalidInputError, match=r"allowed: a path, or one URL that starts with http://, https://, s3://"
    ):
        patient.fetch(url)


@pytest.mark.parametrize("path", ["a.png", "/a/b.png", "a:b.png", "file:/etc/hostname", "C:\\a.png", "a/b://c", ""])
def test_a_path_is_no_url(path: str) -> None:
    assert not is_url(path)


@pytest.mark.parametrize(("protocol", "package"), PACKAGES.items())
def test_a_package_that_is_missing_is_named(
    patient: Fetcher, protocol: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == package:
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackageError, match=rf"^{protocol}:// needs the packages? .*{package}.*: .*pip install"):
        patient.fetch(f"{protocol}://bucket/a.png")
