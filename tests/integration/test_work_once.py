"""Caches on the real servers: work that is done once, counted by the server, and answers that cannot tell."""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from imgeval.contract import IMAGE, METRIC_NAMES, PROMPT
from imgeval.embedded.server import EmbeddedServer
from imgeval.probe import probe
from imgeval.transport import GrpcTransport
from tests.fake_python_backend import installed, load, pb_utils

PROMPTS = (
    "an astronaut in an orange space suit",
    "a cup of coffee, a spoon and a wooden table",
    "the of and",  # no keyword
    "a rocket on a launch pad at night",
)
OUTPUTS = ("SCORE", *(name.upper() for name in METRIC_NAMES), "DETAILS", "SAM_CLIP_DETAILS", "IQA_DETAILS")
BACKEND = Path(__file__).parents[2] / "client/imgeval/embedded/backends/onnxruntime/model.py"
Pair = tuple[bytes, str]


@pytest.fixture(scope="module")
def cached(server: EmbeddedServer) -> Iterator[GrpcTransport]:
    connected = GrpcTransport(server.url)
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def uncached(uncached_server: EmbeddedServer) -> Iterator[GrpcTransport]:
    connected = GrpcTransport(uncached_server.url)
    yield connected
    connected.close()


def ask(transport: GrpcTransport, *pairs: Pair, outputs: Sequence[str] = OUTPUTS) -> list[dict[str, bytes]]:
    """The answers to one request, to the last bit, for each pair."""
    images = np.array([[image] for image, _ in pairs], dtype=np.object_)
    prompts = np.array([[prompt.encode()] for _, prompt in pairs], dtype=np.object_)
    answer = transport.infer("imgeval", {IMAGE.name: images, PROMPT.name: prompts}, outputs, 60.0)
    rows = [{name: array[row, 0] for name, array in answer.items()} for row in range(len(pairs))]
    return [{n: v if isinstance(v, bytes) else v.tobytes() for n, v in row.items()} for row in rows]


def unseen(photo: bytes, seed: int) -> bytes:
    """A photo with noise of its own, so that no test has sent it before, nor any part of it."""
    with Image.open(io.BytesIO(photo)) as image:
        pixels = np.asarray(image.convert("RGB")).astype(np.int16)
    noise = np.random.default_rng([2024, seed]).integers(-3, 4, pixels.shape)
    file = io.BytesIO()
    Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


class Counts:
    """What the caches of a server have computed and remembered since the last question, by model."""

    def __init__(self, server: EmbeddedServer) -> None:
        self._url = f"http://127.0.0.1:{server.metrics_port}/metrics"
        self._last = self._read()

    def since(self) -> dict[str, tuple[int, int]]:
        """Values computed, and values known."""
        last, self._last = self._last, self._read()
        models = {model for _, model in self._last}
        return {
            model: (self._new(last, "misses_total", model), self._new(last, "hits_total", model)) for model in models
        }

    def _new(self, last: dict[tuple[str, str], float], name: str, model: str) -> int:
        return int(self._last[name, model] - last[name, model])

    def _read(self) -> dict[tuple[str, str], float]:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(self._url, timeout=10) as response:
            lines = response.read().decode().splitlines()
        found = {}
        for line in lines:
            if line.startswith("imgeval_cache_"):
                name, _, rest = line.removeprefix("imgeval_cache_").partition('{model="')
                model, _, value = rest.partition('"} ')
                found[name, model] = float(value)
        return found


@pytest.fixture
def counts(server: EmbeddedServer) -> Counts:
    return Counts(server)


# --- work that is done once ------------------------------------------------------------------------------------------
def test_an_image_under_several_prompts_costs_one_image_pass(
    cached: GrpcTransport, uncached: GrpcTransport, counts: Counts, photos: dict[str, bytes]
) -> None:
    image = unseen(photos["coffee.png"], 1)
    said = [ask(cached, (image, prompt))[0] for prompt in PROMPTS]
    ran = counts.since()
    segments = len(json.loads(said[0]["DETAILS"])["sam_clip"]["segments"])
    assert segments > 1
    assert ran["clip_image"] == (1 + segments, len(PROMPTS) - 1), "the image and each crop, once"
    assert ran["sam_clip"] == (1, len(PROMPTS) - 2), "a prompt without keywords asks for no segments"
    assert ran["iqa"] == (1, len(PROMPTS) - 1)
    assert said == [ask(uncached, (image, prompt))[0] for prompt in PROMPTS]
    assert len({each["CLIP"] for each in said}) == len(PROMPTS)


def test_a_prompt_over_many_images_costs_one_text_pass(
    cached: GrpcTransport, uncached: GrpcTransport, counts: Counts, photos: dict[str, bytes]
) -> None:
    prompt = "seven quokkas juggle turnips"  # in no other test
    images = [unseen(photo, 2) for photo in photos.values()]
    said = [ask(cached, (image, prompt))[0] for image in images]
    computed, known = counts.since()["clip_text"]
    assert computed == 5, "the prompt and its four words"
    assert known > 0
    ask(cached, (images[0], prompt))
    assert {model: ran for model, (ran, _) in counts.since().items()} == dict.fromkeys(
        ("clip_image", "clip_text", "sam_clip", "iqa"), 0
    )
    assert said == [ask(uncached, (image, prompt))[0] for image in images]


def test_only_what_is_asked_for_is_looked_up(cached: GrpcTransport, counts: Counts, photos: dict[str, bytes]) -> None:
    ask(cached, (unseen(photos["rocket.jpg"], 3), "a rocket"), outputs=["IQA"])
    assert {model for model, numbers in counts.since().items() if any(numbers)} == {"iqa"}


# --- answers that cannot tell ----------------------------------------------------------------------------------------
def test_a_batch_of_known_and_new_items_is_as_without_a_cache(
    cached: GrpcTransport, uncached: GrpcTransport, photos: dict[str, bytes]
) -> None:
    """Items meet their like in one batch and across batches, in other company and at other places."""
    first, second, third = (unseen(photos[name], 4) for name in ("coffee.png", "chelsea.png", "astronaut.png"))
    batches = [
        [(first, PROMPTS[0])],
        [(second, PROMPTS[1]), (first, PROMPTS[1]), (first, PROMPTS[0]), (second, PROMPTS[2])],
        [(third, PROMPTS[3]), (second, PROMPTS[3]), (third, PROMPTS[3]), (first, "words " * 40)],
        [(third, PROMPTS[0]), (second, PROMPTS[3]), (first, "words " * 40)],
    ]
    for batch in batches:
        assert ask(cached, *batch) == [ask(uncached, pair)[0] for pair in batch]


def test_concurrent_requests_for_the_same_things_agree(
    cached: GrpcTransport, uncached: GrpcTransport, photos: dict[str, bytes]
) -> None:
    pairs = [(unseen(photos[name], 5), prompt) for name in ("coffee.png", "rocket.jpg") for prompt in PROMPTS[:2]] * 3
    with ThreadPoolExecutor(len(pairs)) as pool:
        said = list(pool.map(lambda pair: ask(cached, pair)[0], pairs))
    expected = {pair: ask(uncached, pair)[0] for pair in dict.fromkeys(pairs)}
    assert said == [expected[pair] for pair in pairs]


def test_a_health_check_is_never_answered_from_a_cache(server: EmbeddedServer, counts: Counts) -> None:
    for _ in range(2):
        probe(server.url, timeout_s=60)
        ran = counts.since()
        assert all(ran[model][0] >= 1 for model in ("clip_image", "sam_clip", "iqa")), ran


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("tower", ["clip_image", "clip_text"])
def test_a_row_has_the_same_bits_in_every_batch(repository: Path, tower: str, precision: str) -> None:
    """What lets rows be kept: the real towers in the real engine; also at another length of padding."""
    rng = np.random.default_rng(0)
    if tower == "clip_image":
        rows = rng.standard_normal((12, 3, 260, 260)).astype(np.float32)
        versions = [rows]
    else:
        rows = np.zeros((12, 16), np.int64)
        for row in rows:
            length = rng.integers(3, 16)
            row[:length] = [101, *rng.integers(1000, 30000, length - 2), 102]
        versions = [rows, np.pad(rows, ((0, 0), (0, 16))), np.pad(rows, ((0, 0), (0, 112)))]
    with installed(pb_utils()):
        model = backend(repository / tower, precision)
        alone = np.concatenate([model.run([row[np.newaxis]])["EMBEDDING"] for row in rows])
        worst = 0.0
        for version in versions:
            for size in (1, 2, 3, 5, 8, 12):
                chosen = rng.permutation(len(rows))[:size]
                together = model.run([version[chosen]])["EMBEDDING"]
                worst = max(worst, float(np.abs(together - alone[chosen]).max()))
    spread = float(alone.std(axis=0).mean())
    print(f"\n{tower}, {precision}: max difference {worst:.1e}, spread over inputs {spread:.1e}")
    assert spread > 1e-4
    assert worst == 0.0


def backend(folder: Path, precision: str) -> Any:
    name = "PIXELS" if folder.name == "clip_image" else "INPUT_IDS"
    config = {
        "max_batch_size": 32,
        "input": [{"name": name}],
        "output": [{"name": "EMBEDDING"}],
        "parameters": {"precision": {"string_value": precision}},
    }
    model = load(BACKEND)()
    model.initialize(
        {"model_repository": str(folder), "model_version": "1", "model_name": folder.name,
         "model_config": json.dumps(config)}
    )  # fmt: skip
    return model
