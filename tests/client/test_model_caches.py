"""The `model.py` of the metrics that look at the image alone: one pass for an image, whatever comes with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgeval.cache import OFF, ByteCache
from tests.fake_python_backend import InferenceResponse, Request, installed, load, pb_utils

MODELS = Path(__file__).parents[2] / "model_repository"


@pytest.fixture(autouse=True)
def triton() -> Iterator[None]:
    with installed(pb_utils()):
        yield


def images(*seeds: int, height: int = 230, width: int = 250) -> list[np.ndarray]:
    return [np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8) for seed in seeds]


def request(image: np.ndarray, *wanted: str) -> Request:
    return Request({"RGB": image.reshape(1, -1), "SIZE": np.array([image.shape[:2]], np.int32)}, set(wanted))


def answers(responses: Sequence[InferenceResponse]) -> list[dict[str, Any]]:
    assert not any(response.has_error() for response in responses)
    return [
        {tensor.name(): (tensor.as_numpy().dtype, repr(tensor.as_numpy().tolist())) for tensor in response.tensors}
        for response in responses
    ]


def count(model: Any, name: str) -> list[int]:
    """The images that each call of this method of the model gets from now on."""
    counts: list[int] = []
    original = getattr(model, name)

    def counting(given: Sequence[np.ndarray]) -> Any:
        counts.append(len(given))
        return original(given)

    setattr(model, name, counting)
    return counts


def test_niqe_is_computed_once_for_an_image(repository: Path) -> None:
    """The real model; an image of one colour has no value, and says so again."""
    plain = np.zeros((230, 250, 3), np.uint8)
    turned = images(1)[0].reshape(250, 230, 3)  # the same bytes in another shape
    batches = [images(1), [*images(2, 1, 2), plain], [plain, *images(1)], [turned]]
    results = {}
    for max_bytes in (2**20, 0):
        model = load(MODELS / "iqa_niqe/1/model.py")()
        parameters = {"cache_max_bytes": str(max_bytes), "cache_fingerprint": "f"}
        config = {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}
        model.initialize(
            {"model_repository": str(repository / "iqa"), "model_version": "1", "model_name": "iqa",
             "model_config": json.dumps(config)}
        )  # fmt: skip
        counts = count(model, "score")
        said = [answers(model.execute([request(each, "IQA", "IQA_DETAILS") for each in batch])) for batch in batches]
        results[max_bytes] = said, counts
    (cached, once), (plainly, always) = results.values()
    assert cached == plainly
    assert (once, always) == ([1, 2, 1], [1, 4, 2, 1])
    assert "nan" in cached[2][0]["IQA"][1]
    assert "reason" in cached[2][0]["IQA_DETAILS"][1]
    assert cached[3] != cached[0]


def test_pyiqa_is_computed_once_for_an_image() -> None:
    pytest.importorskip("torch")

    class Metric:
        """The mean, or infinity for a black image, in the place of a metric of IQA-PyTorch."""

        def score(self, rgb: np.ndarray) -> float:
            return float(rgb.mean()) or float("inf")

    said = {}
    for cache in (ByteCache(2**20), OFF):
        model = load(MODELS / "iqa_pyiqa/1/model.py")()
        model.metric, model.cache = Metric(), cache
        counts = count(model, "score")
        batch = [request(each, "IQA", "IQA_DETAILS") for each in [*images(1, 2, 1), np.zeros((8, 8, 3), np.uint8)]]
        said[cache] = [answers(model.execute(batch)) for _ in range(2)]
        assert counts == ([4, 4] if cache is OFF else [3])
    cached, plainly = said.values()
    assert cached == plainly
    assert "inf" in plainly[0][3]["IQA_DETAILS"][1]


def test_qalign_is_computed_once_for_an_image() -> None:
    pytest.importorskip("torch")
    model = load(MODELS / "qalign/1/model.py")()
    from imgeval.metrics.qalign.scorer import QAlignResult

    class Scorer:
        """Mean and deviation, in the place of the network."""

        def __init__(self) -> None:
            self.counts: list[int] = []

        def score(self, given: Sequence[np.ndarray]) -> list[QAlignResult]:
            self.counts.append(len(given))
            return [QAlignResult(rgb.mean(), rgb.std(), *[(0.0,) * 5] * 4) for rgb in given]

    said = {}
    for cache in (ByteCache(2**20), OFF):
        model.scorer, model.cache = Scorer(), cache
        batch = [request(each, "QALIGN_QUALITY", "QALIGN_AESTHETIC") for each in images(1, 2, 1)]
        said[cache] = [answers(model.execute(batch)) for _ in range(2)]
        assert model.scorer.counts == ([3, 3] if cache is OFF else [2])
    cached, plainly = said.values()
    assert cached == plainly
    assert cached[0][0] == cached[0][2] != cached[0][1]
