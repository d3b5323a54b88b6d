"""The cosine model, against numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from _starter import run, run_onnxruntime

from imgeval_export.similarity import similarity_model


@pytest.mark.parametrize("runner", [run, run_onnxruntime])
def test_both_outputs_are_the_cosine(runner: Callable[..., dict[str, np.ndarray]]) -> None:
    image, text = np.random.default_rng(0).standard_normal((2, 5, 384)).astype(np.float32)
    text[0], text[1], text[2] = 3 * image[0], -image[1], 0
    cosine = (image * text).sum(1) / np.maximum(np.linalg.norm(image, axis=1) * np.linalg.norm(text, axis=1), 1e-12)
    outputs = runner(similarity_model(), IMAGE_EMBEDDING=image, TEXT_EMBEDDING=text)
    assert sorted(outputs) == ["CLIP", "CLIP_FOR_COMBINE"]
    np.testing.assert_allclose(outputs["CLIP"], cosine[:, None], atol=1e-6)
    np.testing.assert_array_equal(outputs["CLIP"], outputs["CLIP_FOR_COMBINE"])
    np.testing.assert_allclose(outputs["CLIP"][:3, 0], [1, -1, 0], atol=1e-6)
