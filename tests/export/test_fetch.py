"""Weights from the hub and from plain addresses: resumed, checked, never half there, from a server on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from _hub import COMMIT, FileServer, serve
from click.testing import CliRunner, Result

from imgeval.errors import BuildError
from imgeval_export import checksums, data, fetch_http, weights
from imgeval_export.cli import main
from imgeval_export.manifest import Hub, Url, WeightFile

huggingface_hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("huggingface_hub.file_download")

CHUNK_BYTES = 1 << 16
CONTENT = bytes(range(256)) * (16 * CHUNK_BYTES // 256)
DIGEST = hashlib.sha256(CONTENT).hexdigest()

HUB = Hub("some/model", COMMIT, "model.bin")
HUB_PATH = f"/some/model/resolve/{COMMIT}/model.bin"
URL = Url("https://weights.invalid/v1/model%2B.bin")
URL_PATH = "/v1/model%2B.bin"
NAME = "tiny/model.bin"


def entry(source: Hub | Url = HUB, **changed: object) -> WeightFile:
    values = {
        "name": NAME, "source": source, "bytes": len(CONTENT), "sha256": DIGEST, "license": "CC0-1.0",
        "commercial_use": True, "used_for": "a test", "profiles": ("cpu",),
    }  # fmt: skip
    return WeightFile(**{**values, **changed})  # type: ignore[arg-type]


def as_json(file: WeightFile) -> dict[str, object]:
    return {**vars(file), "source": vars(file.source)}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """Serves CONTENT at both addresses; the environment's mirrors point to it, and retries do not wait."""
    server = FileServer({HUB_PATH: CONTENT, URL_PATH: CONTENT})
    listening = serve(server)
    for name in ("IMGEVAL_OFFLINE", "HF_HUB_OFFLINE", "HF_TOKEN", "HF_HUB_DISABLE_IMPLICIT_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("IMGEVAL_MIRROR", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", CHUNK_BYTES)
    monkeypatch.setattr(huggingface_hub.file_download, "time", SimpleNamespace(sleep=lambda seconds: None))
    yield server
    huggingface_hub.close_session()
    listening.shutdown()
    listening.server_close()


@pytest.fixture
def use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes these entries the manifest, and says in which folder it is."""

    def use_files(*files: WeightFile) -> Path:
        folder = tmp_path / "data"
        folder.mkdir(exist_ok=True)
        (folder / "manifest.json").write_text(json.dumps({"files": [as_json(file) for file in files]}))
        monkeypatch.setattr(data, "folder", lambda name: folder)
        return folder

    return use_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "weights"


class Said(list[str]):
    """Progress that is kept."""

    def __call__(self, line: str) -> None:
        self.append(line)


def fetch(file: WeightFile, folder: Path) -> Path:
    weights.fetch([file], folder, Said())
    return folder / file.name


def partials(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / fetch_http.FOLDER).iterdir() if path.name != "lock")


def refused(file: WeightFile, folder: Path) -> str:
    """The error of a fetch that must fail: one line, and nothing under the file's name."""
    with pytest.raises(BuildError) as error:
        fetch(file, folder)
    assert not (folder / file.name).exists()
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(f"{file.name}: ")
    return str(error.value)


def run_fetch(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["fetch", "--profile", "cpu", *map(str, arguments)])


def in_a_process(manifest_folder: Path, folder: Path) -> subprocess.Popen[str]:
    """`imgeval-export fetch --profile cpu --weights FOLDER` with this manifest."""
    code = f"""
import sys
from pathlib import Path
import huggingface_hub.constants
from imgeval_export import data
from imgeval_export.cli import main
huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE = {CHUNK_BYTES}
data.folder = lambda name: Path({str(manifest_folder)!r})
sys.argv = ["imgeval-export", "fetch", "--profile", "cpu", "--weights", {str(folder)!r}]
main()
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- getting a file --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("source", [HUB, URL])
def test_a_file_arrives_under_its_name(server: FileServer, folder: Path, source: Hub | Url) -> None:
    assert fetch(entry(source), folder).read_bytes() == CONTENT
    assert partials(folder) == []
    assert [request.sent for request in server.gets()] == [len(CONTENT)]


def test_the_mirrors_take_the_place_of_scheme_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_ENDPOINT", "IMGEVAL_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    assert fetch_http.address(HUB) == HUB.address == f"https://huggingface.co{HUB_PATH}"
    assert fetch_http.address(URL) == URL.address == f"https://weights.invalid{URL_PATH}"
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.local:8080")
    monkeypatch.setenv("IMGEVAL_MIRROR", "https://files.local/mirror/")
    assert fetch_http.address(HUB) == f"http://hub.local:8080{HUB_PATH}"
    assert fetch_http.address(URL) == f"https://files.local/mirror{URL_PATH}"


def test_a_token_goes_to_the_hub_and_nowhere_else(
    server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    fetch(entry(HUB), folder)
    fetch(entry(URL, name="other.bin"), folder)
    with_token = {request.path for request in server.requests if request.authorization}
    without = {request.path for request in server.requests if not request.authorization}
    assert with_token == {HUB_PATH}
    assert without == {f"/cdn{HUB_PATH}", URL_PATH}


def test_files_that_are_there_are_used_without_a_request(
    server: FileServer, folder: Path, use: Callable[..., Path]
) -> None:
    use(entry(HUB), entry(URL, name="other.bin"))
    for name in (NAME, "other.bin"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(CONTENT)
    result = run_fetch("--weights", folder)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [f"{name}: {folder / name}" for name in (NAME, "other.bin")]
    assert server.requests == []


# --- interruptions ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("source", [HUB, URL])
def test_a_line_that_goes_dead_is_resumed(server: FileServer, folder: Path, source: Hub | Url) -> None:
    server.cut_after = [5 * CHUNK_BYTES, 3 * CHUNK_BYTES]
    assert fetch(entry(source), folder).read_bytes() == CONTENT
    gets = server.gets()
    assert [request.range for request in gets] == [None, f"bytes={5 * CHUNK_BYTES}-", f"bytes={8 * CHUNK_BYTES}-"]
    assert sum(request.sent for request in gets) == len(CONTENT), "no byte is sent twice"


@pytest.mark.parametrize("source", [HUB, URL])
def test_a_fetch_that_gave_up_is_resumed_by_the_next(server: FileServer, folder: Path, source: Hub | Url) -> None:
    server.cut_after = [5 * CHUNK_BYTES] + [0] * 6
    assert "not downloaded from http://127.0.0.1" in refused(entry(source), folder)
    (part,) = partials(folder)
    assert part.read_bytes() == CONTENT[: 5 * CHUNK_BYTES]

    server.requests.clear()
    server.cut_after.clear()
    said = Said()
    weights.fetch([entry(source)], folder, said)
    assert (folder / NAME).read_bytes() == CONTENT
    assert said[0].startswith(f"resuming {NAME} (1 MB) at 0 MB from http://127.0.0.1")
    (get,) = server.gets()
    assert (get.range, get.sent) == (f"bytes={5 * CHUNK_BYTES}-", len(CONTENT) - 5 * CHUNK_BYTES)
    assert partials(folder) == []


def test_a_killed_process_leaves_a_part_that_the_next_one_completes(
    server: FileServer, folder: Path, use: Callable[..., Path]
) -> None:
    manifest_folder = use(entry())
    server.hold, server.cut_after = threading.Event(), [5 * CHUNK_BYTES]
    process = in_a_process(manifest_folder, folder)
    arrived = lambda: sum(part.stat().st_size for part in (folder / fetch_http.FOLDER).glob("*model.bin"))  # noqa: E731
    wait_until(lambda: arrived() >= 5 * CHUNK_BYTES, process)
    assert not (folder / NAME).exists(), "a part has not the name of the whole"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    server.hold.set()
    assert not (folder / NAME).exists()

    fetch(entry(), folder)
    assert (folder / NAME).read_bytes() == CONTENT
    assert [request.range for request in server.gets()] == [None, f"bytes={5 * CHUNK_BYTES}-"]
    assert sum(request.sent for request in server.gets()) == len(CONTENT)


def test_a_server_that_ignores_ranges_sends_the_whole_again(server: FileServer, folder: Path) -> None:
    server.ranges, server.cut_after = False, [5 * CHUNK_BYTES]
    assert fetch(entry(URL), folder).read_bytes() == CONTENT


def test_a_part_of_something_else_is_not_continued(server: FileServer, folder: Path) -> None:
    """A file without a known checksum is told by its ETag."""
    server.small = {HUB_PATH}
    file = entry(sha256=None, bytes=None)
    server.cut_after = [5 * CHUNK_BYTES] + [0] * 6
    refused(file, folder)
    server.cut_after.clear()
    server.files[HUB_PATH] = CONTENT[::-1]
    assert fetch(file, folder).read_bytes() == CONTENT[::-1]


def test_a_part_that_is_longer_than_the_whole_is_dropped(server: FileServer, folder: Path) -> None:
    (folder / fetch_http.FOLDER).mkdir(parents=True)
    fetch_http._partial(entry(), folder, DIGEST).write_bytes(CONTENT + b"more")
    assert fetch(entry(), folder).read_bytes() == CONTENT


def test_two_processes_download_once(server: FileServer, folder: Path, use: Callable[..., Path]) -> None:
    manifest_folder = use(entry())
    server.hold, server.cut_after = threading.Event(), [5 * CHUNK_BYTES]
    first = in_a_process(manifest_folder, folder)
    wait_until(server.gets, first)
    second = in_a_process(manifest_folder, folder)
    assert second.stderr
    assert second.stderr.readline() == f"waiting for another process that downloads into {folder}\n"
    server.hold.set()  # now the first goes on, from where its line went dead
    said = f"fetching {NAME} (1 MB) from {server.url}{HUB_PATH}\n"
    for process, errors in ((first, said), (second, "")):
        assert process.communicate(timeout=60) == (f"{NAME}: {folder / NAME}\n", errors)
        assert process.returncode == 0
    assert (folder / NAME).read_bytes() == CONTENT
    assert sum(request.sent for request in server.gets()) == len(CONTENT)


# --- what goes wrong -------------------------------------------------------------------------------------------------
def test_a_wrong_checksum(server: FileServer, folder: Path) -> None:
    wrong = CONTENT[::-1]
    server.files[URL_PATH] = wrong
    message = refused(entry(URL), folder)
    assert f"got sha256 {hashlib.sha256(wrong).hexdigest()}, not {DIGEST}, from {server.url}{URL_PATH}" in message
    assert f"removed; run again, or to get it by hand, download {URL.url} and put it at {folder / NAME}" in message
    assert partials(folder) == []


def test_a_hub_that_has_another_file_is_not_asked_for_it(server: FileServer, folder: Path) -> None:
    server.files[HUB_PATH] = CONTENT[::-1]
    assert f"not {DIGEST}; nothing was downloaded" in refused(entry(), folder)
    assert server.gets() == []


def test_what_the_hub_declares_is_compared(server: FileServer, folder: Path) -> None:
    """Also where the manifest knows no checksum: the CDN must send what the hub says."""
    (folder / fetch_http.FOLDER).mkdir(parents=True)
    fetch_http._partial(entry(), folder, DIGEST).write_bytes(b"x" * CHUNK_BYTES)
    assert f"not {DIGEST}" in refused(entry(sha256=None, bytes=None), folder)
    assert fetch(entry(sha256=None, bytes=None), folder).read_bytes() == CONTENT


@pytest.mark.parametrize("source", [HUB, URL])
def test_a_wrong_size_is_seen_before_the_download(server: FileServer, folder: Path, source: Hub | Url) -> None:
    message = refused(entry(source, bytes=1 << 30, sha256=None), folder)
    assert f"has {len(CONTENT)} bytes, not {1 << 30}; nothing was downloaded" in message
    assert server.gets() == []


def test_an_answer_that_is_too_short(server: FileServer, folder: Path) -> None:
    server.truncate_to = 100
    assert "the server sent another number of bytes than announced" in refused(entry(URL), folder)


@pytest.mark.parametrize(("status", "said"), [(200, 404), (403, 403), (401, 401), (500, 500)])
@pytest.mark.parametrize("source", [HUB, URL])
def test_a_file_that_is_not_to_be_had(
    server: FileServer, folder: Path, source: Hub | Url, status: int, said: int
) -> None:
    server.files, server.status = {}, status
    message = refused(entry(source), folder)
    assert f": the server answered {said}; to get it by hand, download {source.address} and put it at" in message
    assert message.endswith(str(folder / NAME))


def test_no_network_is_one_line(
    folder: Path, server: FileServer, use: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    nowhere = f"http://127.0.0.1:{unused_port}"
    monkeypatch.setenv("IMGEVAL_MIRROR", nowhere)
    monkeypatch.setenv("HF_ENDPOINT", nowhere)
    for source, path in ((HUB, HUB_PATH), (URL, URL_PATH)):
        use(entry(source))
        result = run_fetch("--weights", folder)
        assert (result.exit_code, result.stdout) == (3, "")
        assert result.stderr == (
            f"error: {NAME}: not downloaded from {nowhere}{path}: [Errno 111] Connection refused; "
            f"to get it by hand, download {source.address} and put it at {folder / NAME}\n"
        )


@pytest.mark.parametrize("source", [HUB, URL])
def test_offline_asks_nobody(
    server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch, source: Hub | Url
) -> None:
    monkeypatch.setenv("IMGEVAL_OFFLINE", "1")
    assert refused(entry(source), folder) == (
        f"{NAME}: missing, and IMGEVAL_OFFLINE is set; "
        f"to get it by hand, download {source.address} and put it at {folder / NAME}"
    )
    assert server.requests == []
    assert not folder.exists()


def test_a_full_disk_is_seen_before_the_download(
    server: FileServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=CHUNK_BYTES))
    assert "needs 1 MB more" in refused(entry(), folder)
    assert server.gets() == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_disk_that_becomes_full(server: FileServer, folder: Path) -> None:
    (folder / fetch_http.FOLDER).mkdir(parents=True)
    part = fetch_http._partial(entry(), folder, DIGEST)
    part.symlink_to("/dev/full")
    assert "no space left; make room and run again" in refused(entry(), folder)
    part.unlink()
    assert fetch(entry(), folder).read_bytes() == CONTENT


def test_a_folder_that_cannot_be_made(server: FileServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BuildError, match=r"cannot hold weight files \(Not a directory\); give another with --weights"):
        fetch(entry(), tmp_path / "file" / "weights")


# --- trust on first use ----------------------------------------------------------------------------------------------
def test_an_unknown_checksum_is_trusted_once_and_then_compared(
    server: FileServer, folder: Path, use: Callable[..., Path]
) -> None:
    use(entry(sha256=None, bytes=None))
    server.small = {HUB_PATH}
    result = run_fetch("--weights", folder)
    assert result.exit_code == 0, result.stderr
    assert f"trusted on first use, recorded in {folder / 'checksums.json'}: {NAME}" in result.stderr
    assert json.loads((folder / "checksums.json").read_text()) == {NAME: DIGEST}
    assert "trusted on first use" not in run_fetch("--weights", folder).stderr

    (folder / NAME).write_bytes(CONTENT[::-1])
    result = run_fetch("--weights", folder)
    assert result.exit_code == 3
    assert f"{NAME} has {DIGEST}; delete it and run again" in result.stderr

    (folder / NAME).unlink()
    server.files[HUB_PATH] = CONTENT[::-1]
    result = run_fetch("--weights", folder)
    assert result.exit_code == 3
    assert f"not {DIGEST}, from" in result.stderr
    assert not (folder / NAME).exists()


def test_a_damaged_record_is_said(server: FileServer, folder: Path, use: Callable[..., Path]) -> None:
    use(entry())
    folder.mkdir()
    for content in ("not json", "[]", '{"a": 1}'):
        (folder / "checksums.json").write_text(content)
        assert f"error: {folder / 'checksums.json'}: not " in run_fetch("--weights", folder).stderr


def test_a_folder_that_is_read_only_still_serves(
    server: FileServer, folder: Path, use: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(weights: Path, fresh: dict[str, str]) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checksums, "record", read_only)
    use(entry(sha256=None))
    result = run_fetch("--weights", folder)
    assert result.exit_code == 0
    assert f"not written (Permission denied); trusted unrecorded: {NAME}" in result.stderr


def test_a_record_keeps_what_it_has(tmp_path: Path) -> None:
    checksums.record(tmp_path, {"a": "1", "b": "2"})
    checksums.record(tmp_path, {"a": "changed", "c": "3"})
    assert checksums.recorded(tmp_path) == {"a": "1", "b": "2", "c": "3"}
    assert os.listdir(tmp_path) == ["checksums.json"]


# --- commands --------------------------------------------------------------------------------------------------------
def test_commercial_ok_refuses_by_name_and_fetches_the_rest(
    server: FileServer, folder: Path, use: Callable[..., Path]
) -> None:
    use(entry(), entry(URL, name="nc.bin", license="CC-BY-NC-4.0", commercial_use=False))
    result = run_fetch("--weights", folder, "--commercial-ok")
    assert result.exit_code == 3
    assert result.stdout == f"{NAME}: {folder / NAME}\n"
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: refused under --commercial-ok") and last.endswith(": nc.bin (CC-BY-NC-4.0)")
    assert not (folder / "nc.bin").exists()
    assert run_fetch("--weights", folder).exit_code == 0


def test_list_says_what_is_known(server: FileServer, folder: Path, use: Callable[..., Path]) -> None:
    pinned = entry(note="Seen once.")
    unknown = entry(URL, name="nc.bin", bytes=None, sha256=None, license="CC-BY-NC-4.0", commercial_use=False)
    use(pinned, unknown)
    command = ["list", "--weights", str(folder)]
    before = CliRunner().invoke(main, command)
    assert before.exit_code == 0
    assert before.stdout.splitlines() == [
        f"{NAME}  1.0 MB  CC0-1.0  profiles cpu",
        f"  a test; from {HUB.address}; not here; get it with: imgeval-export fetch --profile cpu",
        f"  sha256 {DIGEST}, pinned",
        "  Seen once.",
        "nc.bin  size not known in advance  CC-BY-NC-4.0, not clearly free for commercial use  profiles cpu",
        f"  a test; from {URL.url}; not here; get it with: imgeval-export fetch --profile cpu",
        f"  sha256 not known in advance: trusted on first use, then recorded in {folder / 'checksums.json'}",
    ]
    assert server.requests == []
    run_fetch("--weights", folder)
    after = CliRunner().invoke(main, command).stdout
    assert f"from {HUB.address}; {folder / NAME}\n" in after
    assert f"  sha256 {DIGEST}, trusted on first use and recorded in {folder / 'checksums.json'}" in after


def test_a_profile_that_the_manifest_does_not_know(folder: Path) -> None:
    result = CliRunner().invoke(main, ["fetch", "--profile", "nonsense", "--weights", str(folder)])
    assert (result.exit_code, result.stderr) == (3, "error: got profile 'nonsense'; allowed: starter, cpu, full\n")


def test_without_huggingface_hub_the_starter_works_and_the_rest_says_what_to_install(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
sys.modules["huggingface_hub"] = None
from imgeval.errors import BuildError
from imgeval_export import weights
folder = Path({str(tmp_path)!r})
for file in weights.manifest("starter"):
    weights.find(file, folder)
    weights.describe(file, folder)
for file in weights.manifest("cpu"):
    try:
        weights.fetch([file] if weights.find(file, folder) is None else [], folder, print)
    except BuildError as error:
        print(error)
"""
    environment = {**os.environ, "PIP_NO_INDEX": "1"}
    environment.pop("IMGEVAL_OFFLINE", None)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    said = [line for line in ended.stdout.splitlines() if "MiniLM" not in line]
    assert len(said) == 4
    assert all("downloads need huggingface_hub: pip install huggingface_hub" in line for line in said)
