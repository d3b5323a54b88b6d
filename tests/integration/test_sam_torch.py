"""sam_clip's tensors by DLPack on the real server: starter with a small SAM in the place of its segmenter."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imgeval import Client
from imgeval.embedded import server as embedded
from imgeval.metrics.sam import MaskOptions
from tests.conftest import free_port
from tests.reference.sam import TINY

pytest.importorskip("torch")

GRID = 16  # of TINY's embedding
PROMPT = "a cup of coffee on a wooden table"


@pytest.fixture(scope="module")
def with_sam(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's repository, with the three parts of a SAM with random weights beside its models."""
    from imgeval_export import configs, models
    from imgeval_export.graph import save_model
    from imgeval_export.pth import read_pth
    from imgeval_export.random_weights_sam import random_sam_checkpoint
    from imgeval_export.sam_decoder import sam_decoder_model, sam_points_model
    from imgeval_export.sam_encoder import sam_encoder_model

    folder = tmp_path_factory.mktemp("with_sam")
    random_sam_checkpoint(folder / "sam.pth", TINY)
    state = read_pth(folder / "sam.pth")
    copy = shutil.copytree(repository, folder / "repository", copy_function=os.link)
    makers = {"sam_encoder": sam_encoder_model, "sam_points": sam_points_model, "sam_decoder": sam_decoder_model}
    for model in models.sam(TINY.image_size_px, GRID, 256):
        (copy / model.name / "1").mkdir(parents=True)
        (copy / model.name / "config.pbtxt").write_text(configs.model_text(model), encoding="utf-8")
        save_model(makers[model.name](state), copy / model.name / "1" / "model.onnx")
    return copy


def scored(repository: Path, photo: bytes, arrays: str) -> tuple[float, dict[str, Any]]:
    """The value of sam_clip and what it says of itself, from a server of its own."""
    options = MaskOptions(
        TINY.image_size_px, points_per_side=8, pred_iou_thresh=0.0, stability_score_thresh=0.3, arrays=arrays
    )
    file = repository / "sam_clip" / "1" / "settings.json"
    settings = {**json.loads(file.read_text(encoding="utf-8")), "segmenter": "sam", "segments": asdict(options)}
    file.unlink()  # a link to the session's
    file.write_text(json.dumps(settings), encoding="utf-8")
    with running(repository) as client:
        result = client.score(photo, PROMPT, metrics=["sam_clip"])
    return result.metrics["sam_clip"].raw, dict(result.sam_clip)


class running:  # noqa: N801 - a context manager
    def __init__(self, repository: Path) -> None:
        self._server = embedded.start(repository, "with_sam", port=free_port())

    def __enter__(self) -> Client:
        self._client = Client(self._server.url)
        return self._client

    def __exit__(self, *error: object) -> None:
        self._client.close()
        embedded.stop(self._server)


def test_tensors_by_dlpack_give_what_arrays_give(with_sam: Path, photos: dict[str, bytes]) -> None:
    value, said = scored(with_sam, photos["coffee.png"], "numpy")
    by_torch, said_by_torch = scored(with_sam, photos["coffee.png"], "torch")
    print(f"\n{len(said['segments'])} segments; {value} by numpy, {by_torch} by torch")
    assert len(said["segments"]) >= 2
    assert [each["area"] for each in said_by_torch["segments"]] == pytest.approx(
        [each["area"] for each in said["segments"]], rel=1e-3
    )
    assert (
        np.abs(
            np.subtract([each["box"] for each in said_by_torch["segments"]], [each["box"] for each in said["segments"]])
        ).max()
        <= 1
    )
    assert by_torch == pytest.approx(value, abs=1e-3)
