"""imgeval-client's connection options: from the command line and the environment, to servers with TLS and tokens."""

from __future__ import annotations

from pathlib import Path

import grpc
import pytest
import trustme
from click.testing import CliRunner

from imgeval import client as library
from imgeval.cli import main
from tests.conftest import Run
from tests.fake_transport import DETAILS
from tests.fake_triton import scoring, serving

SECRET = "s3cret-t0ken"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    (tmp_path / "dog.jpg").write_bytes(b"image")
    return tmp_path / "dog.jpg"


@pytest.fixture
def ca(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return tmp_path / "ca.pem"


@pytest.fixture
def credentials(authority: trustme.CA) -> grpc.ServerCredentials:
    issued = authority.issue_cert("127.0.0.1")
    return grpc.ssl_server_credentials([(issued.private_key_pem.bytes(), issued.cert_chain_pems[0].bytes())])


def score(image: Path, *arguments: object, **environment: object) -> tuple[int, str]:
    """Exit code and all output of `imgeval-client score`."""
    names = {f"IMGEVAL_{name.upper()}": str(value) for name, value in environment.items()}
    result = CliRunner().invoke(main, ["score", str(image), "a dog", *map(str, arguments)], env=names)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert SECRET not in result.output
    return result.exit_code, result.output


def test_options_and_variables_mean_the_same(
    image: Path, ca: Path, credentials: grpc.ServerCredentials, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(SECRET)
    with serving(scoring(DETAILS), credentials=credentials, authorization=f"Bearer {SECRET}") as url:
        by_option = ("--url", url, "--ca-cert", ca, "--token-file", tmp_path / "token", "--compression", "gzip")
        assert score(image, *by_option)[0] == 0
        assert score(image, url=url, ca_cert=ca, token_file=tmp_path / "token", compression="gzip", tls=1)[0] == 0
        assert score(image, url=url, ca_cert=ca, token=SECRET, max_attempts=2)[0] == 0
        assert score(image, url=url, ca_cert=ca, token="wrong", token_file=tmp_path / "token")[0] == 0, "the file wins"
        code, output = score(image, url=url, ca_cert=ca, token=f"not {SECRET}")
        assert (code, output.count("\n")) == (3, 1)
        assert "refused the authorization given" in output


def test_several_servers(image: Path, unused_port: int) -> None:
    away = f"127.0.0.1:{unused_port}"
    with serving(scoring(DETAILS)) as url:
        assert score(image, "--url", away, "--url", url)[0] == 0
        assert score(image, "--url", f"{away},{url}")[0] == 0
        assert score(image, url=f"{away},{url}")[0] == 0
    code, output = score(image, "--url", away, "--url", "nonsense")
    assert (code, output) == (2, "error: url: got 'nonsense'; allowed: HOST:PORT, such as localhost:8001\n")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--url", "a:1", "--client-cert", "c.pem"), "client_key: got none beside client_cert; allowed: both or none"),
        (("--url", "a:1", "--ca-cert", "/nowhere.pem"), "ca_cert: /nowhere.pem cannot be read: "),
        (("--url", "a:1", "--shared-memory"), "shared_memory: got a:1; allowed: one server on this machine"),
        (("--url", "a:1", "--max-attempts", "9"), "max_attempts: got 9; allowed: 1 to 5"),
        (("--url", "a:1", "--token-file", "t"), "token: got one for a server on another machine without TLS"),
        (("--url", "localhost:1", "--token-file", "/nowhere"), "token_file: /nowhere cannot be read: "),
        (("--tls",), "url: got none beside TLS or a token; allowed: --url of the server"),
        (("--token-file", "t"), "url: got none beside TLS or a token; allowed: --url of the server"),
    ],
)
def test_what_is_not_allowed_is_one_line_and_no_server_is_started(
    image: Path, arguments: tuple[str, ...], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMGEVAL_URL", raising=False)
    code, output = score(image, *arguments)
    assert (code, output.count("\n")) == (2, 1), output
    assert output.startswith(f"error: {problem}")


def test_no_option_takes_a_token() -> None:
    result = CliRunner().invoke(main, ["score", "dog.jpg", "a dog", "--token", SECRET])
    assert result.exit_code == 2
    assert "No such option" in result.output


def test_a_server_that_is_not_trusted_is_one_line_without_grpcs_own(
    image: Path, credentials: grpc.ServerCredentials, run: Run
) -> None:
    """In a process of its own, where gRPC would write to the real stderr."""
    with serving(scoring(DETAILS), credentials=credentials) as url:
        ended = run("imgeval-client", "score", image, "a dog", "--url", url, "--tls")
    assert (ended.returncode, ended.stdout) == (3, b"")
    assert ended.stderr.count(b"\n") == 1, ended.stderr
    assert ended.stderr.startswith(f"error: no server at {url}: ".encode())
    assert b"CERTIFICATE_VERIFY_FAILED" in ended.stderr


def test_options_reach_a_local_server_too(image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large.bmp").write_bytes(bytes(100_000))
    monkeypatch.delenv("IMGEVAL_URL", raising=False)
    with serving(scoring(DETAILS)) as url:
        monkeypatch.setattr(library, "DEFAULT_URL", url)
        assert score(tmp_path / "large.bmp")[0] == 0
        assert score(image, "--shared-memory")[0] == 0, "so small an image goes in the message"
        code, output = score(tmp_path / "large.bmp", "--shared-memory")
    assert code == 3
    assert output.startswith(f"error: the server at {url} cannot use shared memory: ")
