"""A hub and a plain file server in one, on loopback: HEAD, Range, redirects to another host, and ways to fail."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CDN = "/cdn"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    authorization: str | None
    sent: int = 0  # bytes of content


@dataclass
class FileServer:
    """What is served, and what was asked for. `/owner/name/resolve/REVISION/PATH` answers as the hub does."""

    files: dict[str, bytes] = field(default_factory=dict)  # by path
    small: set[str] = field(default_factory=set)  # hub files outside LFS: no redirect, and an ETag that is no sha256
    cut_after: list[int] = field(default_factory=list)  # content bytes of the next answers, before the line goes dead
    status: int = 200  # another one answers everything
    ranges: bool = True  # False: a Range is ignored and the whole is sent
    truncate_to: int | None = None  # GET sends and announces only so much
    hold: threading.Event | None = None  # answers that are cut keep the line open until this is set
    requests: list[Request] = field(default_factory=list)
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def gets(self) -> list[Request]:
        """The GET requests that got content, or should have."""
        return [request for request in self.requests if request.method == "GET" and request.sent >= 0]


def serve(server: FileServer) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            asked = Request(self.command, self.path, self.headers["Range"], self.headers["Authorization"])
            server.requests.append(asked)
            on_hub = "/resolve/" in self.path
            content = server.files.get(self.path.removeprefix(CDN))
            if server.status != 200 or content is None:
                asked.sent = -1
                self.send_response(404 if server.status == 200 else server.status)
                if server.status == 200 and on_hub:
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.finish_head(0)
            elif on_hub and not self.path.startswith(CDN) and self.path not in server.small:
                asked.sent = -1
                self.send_response(302)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("X-Linked-Size", str(len(content)))
                self.send_header("X-Linked-ETag", f'"{hashlib.sha256(content).hexdigest()}"')
                self.send_header("Location", f"http://localhost:{server.port}{CDN}{self.path}")
                self.finish_head(0)
            else:
                self.send_content(asked, content)

        def send_content(self, asked: Request, content: bytes) -> None:
            etag = hashlib.sha1(content).hexdigest()
            if asked.method == "GET" and server.truncate_to is not None:
                content = content[: server.truncate_to]
            start = int(asked.range.removeprefix("bytes=").rstrip("-")) if asked.range and server.ranges else 0
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{etag}"')
            self.finish_head(len(content) - start)
            if asked.method == "HEAD":
                return
            end = len(content)
            if server.cut_after:
                end = start + server.cut_after.pop(0)
                self.close_connection = True
            asked.sent = len(content[start:end])
            self.wfile.write(content[start:end])
            self.wfile.flush()
            if end < len(content) and server.hold:
                server.hold.wait()

        def finish_head(self, length: int) -> None:
            self.send_header("Content-Length", str(length))
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.port = listening.server_port
    threading.Thread(target=listening.serve_forever, args=(0.02,), daemon=True).start()
    return listening
