"""imgeval.connection: what is allowed, and that a token is shown nowhere."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from imgeval import Connection, InvalidInputError
from imgeval.connection import MAX_TOKEN_BYTES

SECRET = "s3cret-t0ken"


@pytest.mark.parametrize(
    ("urls", "options", "problem"),
    [
        ((), {}, "url: got none; allowed: HOST:PORT"),
        ("", {}, "url: got ''; allowed: HOST:PORT"),
        ("a:1,,b:2", {}, "url: got ''; allowed: HOST:PORT"),
        (["a:1", "b"], {}, "url: got 'b'; allowed: HOST:PORT"),
        ("a:1", {"client_cert": "c.pem"}, "client_key: got none beside client_cert; allowed: both or none"),
        ("a:1", {"client_key": "k.pem"}, "client_cert: got none beside client_key; allowed: both or none"),
        ("a:1,b:2", {"tls": True}, "server_name: got none; several addresses with TLS need"),
        ("a:1", {"token": SECRET}, "token: got one for a server on another machine without TLS"),
        ("localhost:1,a:1", {"token_file": "f"}, "token: got one for a server on another machine without TLS"),
        ("a:1", {"tls": True, "token": SECRET, "token_file": "f"}, "token: got a token and a token_file"),
        ("a:1", {"tls": True, "token": ""}, "token: got 0 characters; allowed: 1 to 8192 of printable ASCII"),
        ("a:1", {"tls": True, "token": f"{SECRET}\nx: y"}, "token: got 17 characters; allowed"),
        ("a:1", {"tls": True, "token": f"{SECRET}é"}, "token: got 13 characters; allowed"),
        ("a:1", {"compression": "zip"}, "compression: got 'zip'; allowed: none, gzip, deflate"),
        ("a:1", {"shared_memory": True}, "shared_memory: got a:1; allowed: one server on this machine"),
        ("a:1", {"max_attempts": 0}, "max_attempts: got 0; allowed: 1 to 5"),
        ("a:1", {"max_attempts": 6}, "max_attempts: got 6; allowed: 1 to 5"),
    ],
)
def test_what_is_not_allowed_is_one_line(urls: Any, options: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        Connection(urls, **options)
    assert str(refused.value).startswith(problem)
    assert "\n" not in str(refused.value)
    assert SECRET not in str(refused.value)


def test_addresses_come_in_one_text_or_several() -> None:
    assert Connection("a:1,[::1]:2").addresses == Connection(["a:1", "[::1]:2"]).addresses == ("a:1", "[::1]:2")
    assert Connection(["a:1", "b:2"]).url == "a:1,b:2"
    assert Connection.of("a:1") == Connection("a:1")
    assert Connection.of(known := Connection("a:1", tls=True)) is known


def test_a_certificate_turns_tls_on() -> None:
    assert not Connection("a:1").secure
    assert Connection("a:1", ca_cert="c.pem").secure
    assert Connection("a:1", client_cert="c.pem", client_key="k.pem").secure


@pytest.mark.parametrize(
    ("given", "header"),
    [(SECRET, f"Bearer {SECRET}"), (f" {SECRET}\n", f"Bearer {SECRET}"), ("Basic YTpi", "Basic YTpi")],
)
def test_a_token_becomes_a_header_from_text_or_file(given: str, header: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(given)
    assert Connection("localhost:1", token=given).authorization() == header
    assert Connection("localhost:1", token_file=tmp_path / "token").authorization() == header
    assert Connection("a:1").authorization() is None


def test_a_token_file_is_read_each_time(tmp_path: Path) -> None:
    connection = Connection("localhost:1", token_file=tmp_path / "token")
    for content, problem in ((None, "cannot be read"), ("", "got 0 characters"), ("x" * 9000, "got 8193 characters")):
        if content is not None:
            (tmp_path / "token").write_text(content)
        with pytest.raises(InvalidInputError, match=problem) as refused:
            connection.authorization()
        assert refused.value.field == "token_file"
    for content in ("first", "second"):
        (tmp_path / "token").write_text(content)
        assert connection.authorization() == f"Bearer {content}"
    assert MAX_TOKEN_BYTES == 8192


def test_a_token_is_in_no_representation() -> None:
    connection = Connection("localhost:1", token=SECRET)
    assert SECRET not in f"{connection!r} {connection}"
    assert SECRET in dataclasses.asdict(connection)["token"], "but it is there"
