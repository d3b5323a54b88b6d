"""How a server is reached: addresses, TLS, authorization, compression, attempts. Data only; `channel.py` acts on it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from imgeval.errors import InvalidInputError

Compression = Literal["none", "gzip", "deflate"]

LOOPBACK_HOSTS = ("localhost", "127.0.0.1", "[::1]")
DEFAULT_TIMEOUT_S = 60.0  # of a call, with all its attempts
MAX_ATTEMPTS = 5  # gRPC's own limit
MAX_TOKEN_BYTES = 8 * 1024  # of one header, as most servers and proxies have it


@dataclass(frozen=True)
class Connection:
    """Where the servers are and how to talk to them.

    Args:
        urls: HOST:PORT, or several: in one text with commas, or in a sequence. Requests go round-robin to those that
            are reachable. A single host name may have several addresses: all of them are used, and looked up again
            when one fails. Several names are looked up once, when the connection is opened.
        tls: encrypt, and check the server's certificate; on wherever a certificate is given.
        ca_cert: file of PEM root certificates to trust; by default those that gRPC brings.
        client_cert, client_key: PEM files with which the client proves who it is (mutual TLS); both or none.
        server_name: the name in the server's certificate, where it is not the host of the address. Several addresses
            with TLS need it: they are servers of one name.
        token: value of the `authorization` header of every call; without a scheme it is a Bearer token.
        token_file: a file to read it from, at every call: a token that is renewed there is used at once.
        compression: of requests; "gzip" and "deflate" shrink uncompressed images (BMP, TIFF) and cost time for others.
        shared_memory: send images through this machine's shared memory instead of gRPC messages.
        max_attempts: how often a request is sent, 1 to 5, while no server answers it; scoring changes nothing on the
            server, so that asking again is safe. The deadline bounds all attempts together.

    Raises:
        InvalidInputError: a value that is not allowed, or values that do not go together.
    """

    urls: str | Sequence[str]
    _: KW_ONLY
    tls: bool = False
    ca_cert: str | os.PathLike[str] | None = None
    client_cert: str | os.PathLike[str] | None = None
    client_key: str | os.PathLike[str] | None = None
    server_name: str | None = None
    token: str | None = field(default=None, repr=False)
    token_file: str | os.PathLike[str] | None = None
    compression: Compression = "none"
    shared_memory: bool = False
    max_attempts: int = 4

    def __post_init__(self) -> None:
        if not self.addresses:
            raise InvalidInputError("url", "got none; allowed: HOST:PORT, such as localhost:8001")
        for url in self.addresses:
            if not re.fullmatch(r"[^\s/@,]+:\d{1,5}", url) or not 1 <= int(url.rpartition(":")[2]) <= 65_535:
                raise InvalidInputError("url", f"got {url!r}; allowed: HOST:PORT, such as localhost:8001")
        if (self.client_cert is None) != (self.client_key is None):
            given, other = ("client_cert", "client_key") if self.client_key is None else ("client_key", "client_cert")
            raise InvalidInputError(other, f"got none beside {given}; allowed: both or none")
        if self.secure and len(self.addresses) > 1 and not self.server_name:
            raise InvalidInputError(
                "server_name", "got none; several addresses with TLS need the name in their certificates"
            )
        if self.token is not None and self.token_file is not None:
            raise InvalidInputError("token", "got a token and a token_file; allowed: one of them")
        if self.has_token and not self.secure and not self.local:
            raise InvalidInputError(
                "token", "got one for a server on another machine without TLS, which would send it readable to all; "
                "allowed: with TLS"
            )  # fmt: skip
        if self.token is not None:
            _header(self.token, "token")
        if self.compression not in get_args(Compression):
            allowed = ", ".join(get_args(Compression))
            raise InvalidInputError("compression", f"got {self.compression!r}; allowed: {allowed}")
        if self.shared_memory and (not self.local or len(self.addresses) > 1):  # a region is known to one server
            raise InvalidInputError(
                "shared_memory", f"got {self.url}; allowed: one server on this machine, such as localhost:8001"
            )
        if not 1 <= self.max_attempts <= MAX_ATTEMPTS:
            raise InvalidInputError("max_attempts", f"got {self.max_attempts}; allowed: 1 to {MAX_ATTEMPTS}")

    @classmethod
    def of(cls, where: str | Sequence[str] | Connection) -> Connection:
        """A connection as it is, or one without options to the addresses given."""
        return where if isinstance(where, Connection) else cls(where)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every HOST:PORT."""
        return tuple(self.urls.split(",") if isinstance(self.urls, str) else self.urls)

    @property
    def url(self) -> str:
        """The addresses as one text, for messages."""
        return ",".join(self.addresses)

    @property
    def secure(self) -> bool:
        """Whether to use TLS."""
        return self.tls or self.ca_cert is not None or self.client_cert is not None

    @property
    def local(self) -> bool:
        """Whether every address is this machine's own."""
        return all(url.rpartition(":")[0] in LOOPBACK_HOSTS for url in self.addresses)

    def authorization(self) -> str | None:
        """The value of the header, read from its file where it is in one; never part of a message.

        Raises:
            InvalidInputError: the file cannot be read, or holds no such value.
        """
        if self.token_file is None:
            return None if self.token is None else _header(self.token, "token")
        path = Path(self.token_file)
        try:
            with path.open("rb") as file:
                content = file.read(MAX_TOKEN_BYTES + 1)
        except (OSError, ValueError) as error:
            raise InvalidInputError("token_file", f"{path} cannot be read: {error}") from error
        return _header(content.decode("latin-1"), "token_file")

    @property
    def has_token(self) -> bool:
        """Whether calls carry an authorization."""
        return self.token is not None or self.token_file is not None


def _header(token: str, field_name: str) -> str:
    """A token as the header's value. What is wrong with it is said without saying it."""
    value = token.strip()
    if not value or len(value) > MAX_TOKEN_BYTES or not re.fullmatch(r"[ -~]+", value):
        raise InvalidInputError(
            field_name, f"got {len(value)} characters; allowed: 1 to {MAX_TOKEN_BYTES} of printable ASCII, on one line"
        )
    return value if " " in value else f"Bearer {value}"
