"""EfficientNet-Lite2 as ONNX against the package it comes from, on real weights and real photos."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from _starter import (
    PHOTOS,
    assert_close,
    efficientnet_file,
    import_quietly,
    photos,
    run,
    run_onnxruntime,
    third_party_warnings_ignored,
)

from imgeval.errors import BuildError
from imgeval_export.classes import imagenet_classes
from imgeval_export.efficientnet import IMAGE_SIZE, blocks, efficientnet_lite2_model, expected_shapes, same_padding
from imgeval_export.legacy_pth import read_legacy_pth


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    return read_legacy_pth(efficientnet_file())


@pytest.fixture(scope="module")
def original_logits() -> np.ndarray:
    torch = import_quietly("torch")
    package = import_quietly("efficientnet_lite_pytorch")
    with third_party_warnings_ignored(), torch.inference_mode():
        network = package.EfficientNet.from_pretrained("efficientnet-lite2", weights_path=str(efficientnet_file()))
        return network.eval()(torch.from_numpy(photos())).numpy()


def test_logits_equal_the_original(state: dict[str, np.ndarray], original_logits: np.ndarray) -> None:
    model = efficientnet_lite2_model(state)
    assert_close("logits, OpenVINO", run(model, PIXELS=photos())["LOGITS"], original_logits)
    assert_close("logits, ONNX Runtime", run_onnxruntime(model, PIXELS=photos())["LOGITS"], original_logits)


def test_photos_are_recognised(state: dict[str, np.ndarray]) -> None:
    logits = run(efficientnet_lite2_model(state), PIXELS=photos())["LOGITS"]
    best = dict(zip(PHOTOS, (imagenet_classes()[index] for index in logits.argmax(axis=1)), strict=True))
    assert best["coffee.png"] == "espresso"
    assert best["chelsea.png"] == "Egyptian cat"


def test_same_padding_gives_the_odd_pixel_to_the_end() -> None:
    assert same_padding(IMAGE_SIZE, 3, 2) == [0, 0, 1, 1]
    assert same_padding(65, 3, 2) == [1, 1, 1, 1]
    assert same_padding(130, 5, 2) == [1, 1, 2, 2]
    assert same_padding(17, 5, 1) == [2, 2, 2, 2]
    assert same_padding(9, 1, 1) == [0, 0, 0, 0]


def test_there_are_21_blocks_and_their_channels_join() -> None:
    chain = list(blocks())
    assert len(chain) == 21
    assert all(a.channels_out == b.channels_in for a, b in pairwise(chain))


def test_wrong_weights_are_named() -> None:
    good = {name: np.ones(shape, np.float32) for name, shape in expected_shapes().items()}
    with pytest.raises(BuildError, match=r"missing: _fc.bias"):
        efficientnet_lite2_model({name: value for name, value in good.items() if name != "_fc.bias"})
    with pytest.raises(BuildError, match=r"unexpected: _blocks.0._se_reduce.weight"):
        efficientnet_lite2_model(good | {"_blocks.0._se_reduce.weight": np.zeros(1, np.float32)})
    with pytest.raises(BuildError, match=r"_fc.bias is \(10,\), not \(1000,\)"):
        efficientnet_lite2_model(good | {"_fc.bias": np.zeros(10, np.float32)})
    with pytest.raises(BuildError, match=r"not finite floats: _bn0.weight"):
        efficientnet_lite2_model(good | {"_bn0.weight": np.full(32, np.nan, np.float32)})
    with pytest.raises(BuildError, match=r"missing: .* and [0-9]+ more"):
        efficientnet_lite2_model({})
