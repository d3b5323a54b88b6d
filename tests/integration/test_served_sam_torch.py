"""sam_clip's tensors by DLPack on the real server: starter with a small SAM in the place of its segmenter."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from imgeval import Client, Result
from imgeval.embedded import server as embedded
from imgeval.errors import EmbeddedServerError
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


def scored(repository: Path, photo: bytes, arrays: str, pred_iou_thresh: float = 0.0) -> Result:
    """sam_clip's result from a server of its own."""
    options = MaskOptions(
        TINY.image_size_px,
        points_per_side=8,
        pred_iou_thresh=pred_iou_thresh,
        stability_score_thresh=0.3,
        arrays=arrays,
    )
    file = repository / "sam_clip" / "1" / "settings.json"
    settings = {**json.loads(file.read_text(encoding="utf-8")), "segmenter": "sam", "segments": asdict(options)}
    file.unlink()  # a link to the session's
    file.write_text(json.dumps(settings), encoding="utf-8")
    with running(repository) as client:
        return client.score(photo, PROMPT, metrics=["sam_clip"])


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
    by_numpy, by_torch = (scored(with_sam, photos["coffee.png"], arrays) for arrays in ("numpy", "torch"))
    values = [result.metrics["sam_clip"].raw for result in (by_numpy, by_torch)]
    theirs, ours = by_numpy.sam_clip["segments"], by_torch.sam_clip["segments"]
    print(f"\n{len(theirs)} segments; {values[0]} by numpy, {values[1]} by torch")
    assert len(theirs) >= 2
    assert [each["area"] for each in ours] == pytest.approx([each["area"] for each in theirs], rel=1e-3)
    boxes = [np.array([each["box"] for each in found]) for found in (theirs, ours)]
    assert np.abs(boxes[0] - boxes[1]).max() <= 1
    assert values[1] == pytest.approx(values[0], abs=1e-3)


def test_an_image_without_masks_is_no_failure(with_sam: Path, photos: dict[str, bytes]) -> None:
    result = scored(with_sam, photos["coffee.png"], "torch", pred_iou_thresh=1.0)
    assert "no segment" in result.missing["sam_clip"]


def test_arrays_are_chosen_by_the_settings(with_sam: Path, photos: dict[str, bytes]) -> None:
    """Else the comparison above might be one of NumPy with itself: without `call_torch` there is no torch way."""
    file = with_sam / "sam_clip" / "1" / "model.py"
    program = file.read_text(encoding="utf-8")
    file.unlink()
    file.write_text(program.replace("serving.CALLS[", "{'numpy': serving.call}["), encoding="utf-8")
    with pytest.raises(EmbeddedServerError, match="KeyError: 'torch'"):
        scored(with_sam, photos["coffee.png"], "torch")
