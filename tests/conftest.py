"""What the tests share: a home of their own, one real server, a client of it, and photos.

Nothing here touches a server or a cache that was there before: `IMGEVAL_HOME` is a temporary folder and every port is
one that was free.
"""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from imgeval import Client
from imgeval.embedded import paths
from imgeval.embedded import server as embedded
from imgeval.embedded.launch import launch

ROOT = Path(__file__).parents[1]
PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")  # of scikit-image, public domain or CC0
PHOTO_SIDE_PX = 384  # of the longer side; NIQE needs 194 of the shorter

Run = Callable[..., "subprocess.CompletedProcess[bytes]"]


@pytest.fixture(scope="session", autouse=True)
def no_configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The configuration file of whoever runs the tests is none of theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
        patch.delenv("IMGEVAL_CONFIG", raising=False)
        yield


@pytest.fixture(scope="session")
def imgeval_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`IMGEVAL_HOME` of this session; weights come out of the installed packages, never over the network."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("IMGEVAL_")]:
            patch.delenv(name)
        patch.setenv("IMGEVAL_HOME", str(home))
        patch.setenv("IMGEVAL_OFFLINE", "1")
        yield home


@pytest.fixture(scope="session")
def server(imgeval_home: Path) -> Iterator[embedded.EmbeddedServer]:
    """One real embedded server for the whole session; a test that harms a server starts another."""
    running = launch("starter", port=free_port())
    yield running
    embedded.stop(running)


@pytest.fixture(scope="session")
def uncached_server(imgeval_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[embedded.EmbeddedServer]:
    """A second one whose models keep nothing, for tests that want everything computed; found by its own name only."""
    from imgeval_export.repository import BuildOptions, build

    folder = tmp_path_factory.mktemp("uncached") / "starter"
    build("starter", folder, paths.weights(), lambda line: None, BuildOptions(cache_mib=0))
    running = embedded.start(folder, f"uncached{embedded.VERIFICATION}", port=free_port())
    yield running
    embedded.stop(running)


@pytest.fixture(scope="session")
def repository(server: embedded.EmbeddedServer) -> Path:
    """The model repository that the session's server serves; not to be written to."""
    return Path(server.repository)


@pytest.fixture(scope="session")
def client(server: embedded.EmbeddedServer) -> Iterator[Client]:
    with Client(server.url) as connected:
        yield connected


@pytest.fixture(scope="session")
def run(imgeval_home: Path) -> Run:
    """Runs a command of this environment's `bin` folder: `run("imgeval-client", "score", ...)`, bytes in and out."""
    scripts = Path(sys.executable).parent

    def run_command(
        command: str, *arguments: str | bytes | Path, **options: object
    ) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, **options.pop("env", {})}  # type: ignore[dict-item]
        return subprocess.run(
            [scripts / command, *arguments], capture_output=True, check=False, env=environment, timeout=120, **options
        )

    return run_command


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder `shared` beside the checkout, with example images and prompts; skips the test where it is absent."""
    folder = ROOT.parent / "shared"
    if not (folder / "assets" / "prompts.json").is_file():
        pytest.skip(f"needs the example images of {folder}, which are not part of the project")
    return folder


@pytest.fixture(scope="session")
def photos() -> dict[str, bytes]:
    """Small real photos by name, as JPEG files."""
    skimage = pytest.importorskip("skimage")
    return {name: small_jpeg(Path(skimage.__file__).parent / "data" / name) for name in PHOTOS}


def small_jpeg(path: Path) -> bytes:
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((PHOTO_SIDE_PX, PHOTO_SIDE_PX))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture
def unused_port() -> int:
    """A port of the loopback address on which nothing listens."""
    return free_port()


def free_port() -> int:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        port: int = any_port.getsockname()[1]
        return port
