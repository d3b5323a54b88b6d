"""The aesthetic head as ONNX against the layers that upstream trained: the real head, random and CLIP's embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from _clip import assert_close, photos, tiny_state
from _starter import import_quietly, run, run_onnxruntime

from imgeval.errors import BuildError
from imgeval_export.aesthetic import aesthetic_model, expected_shapes
from imgeval_export.clip import clip_image_model
from imgeval_export.pth import read_pth

SHA256 = "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0"
TOLERANCE = 2e-5  # of a score of 1 to 10

Runner = Callable[..., dict[str, np.ndarray]]
both_runtimes = pytest.mark.parametrize("runner", [run, run_onnxruntime])


@pytest.fixture(scope="session")
def head_file(shared: Path) -> Path:
    """The real head, in the folder beside the checkout."""
    file = shared / "weights" / "sac+logos+ava1-l14-linearMSE.pth"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == SHA256
    return file


@pytest.fixture(scope="session")
def upstream(head_file: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Upstream's network on upstream's normalisation, in float32; dropout is off in eval mode."""
    torch = import_quietly("torch")
    nn = torch.nn
    state = torch.load(head_file, map_location="cpu", weights_only=True)
    sizes = (768, 1024, 128, 64, 16, 1)
    dropouts = {1: nn.Dropout(0.2), 3: nn.Dropout(0.2), 5: nn.Dropout(0.1)}
    linear = iter(nn.Linear(*pair) for pair in pairwise(sizes))
    model = nn.Module()
    model.layers = nn.Sequential(*(dropouts[index] if index in dropouts else next(linear) for index in range(8)))
    model.load_state_dict(state, strict=True)
    model.eval()

    def score(embeddings: np.ndarray) -> np.ndarray:
        unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
        with torch.inference_mode():
            result: Any = model.layers(torch.tensor(unit))
        return np.asarray(result.numpy())

    return score


@both_runtimes
def test_scores_equal_upstreams(runner: Runner, head_file: Path, upstream: Callable[[np.ndarray], np.ndarray]) -> None:
    model = aesthetic_model(read_pth(head_file))
    random = np.random.default_rng(0).standard_normal((64, 768)).astype(np.float32)
    clip = run(clip_image_model(tiny_state()), PIXELS=photos())["EMBEDDING"]
    for what, embeddings in (("random embeddings, any length", random), ("embeddings of photos", clip)):
        outputs = runner(model, IMAGE_EMBEDDING=embeddings)
        theirs = upstream(embeddings)
        print(f"\nscores {theirs.min():.2f} to {theirs.max():.2f}")
        assert_close(f"aesthetic of {what}", outputs["AESTHETIC"], theirs, TOLERANCE)
        assert (np.abs(outputs["AESTHETIC"] - theirs) < 1e-5 * np.abs(theirs)).all()
        assert sorted(outputs) == ["AESTHETIC", "AESTHETIC_FOR_COMBINE"]
        np.testing.assert_array_equal(outputs["AESTHETIC"], outputs["AESTHETIC_FOR_COMBINE"])


def test_the_length_of_an_embedding_does_not_matter(head_file: Path) -> None:
    embedding = np.random.default_rng(0).standard_normal((3, 768)).astype(np.float32)
    model = aesthetic_model(read_pth(head_file))
    short, long = (run(model, IMAGE_EMBEDDING=embedding * scale)["AESTHETIC"] for scale in (0.1, 100))
    np.testing.assert_allclose(short, long, rtol=1e-6)


def test_wrong_weights_are_named() -> None:
    good = {name: np.ones(shape, np.float32) for name, shape in expected_shapes().items()}
    with pytest.raises(BuildError, match=r"missing: layers.7.bias"):
        aesthetic_model({name: values for name, values in good.items() if name != "layers.7.bias"})
    with pytest.raises(BuildError, match=r"unexpected: layers.8.weight"):
        aesthetic_model(good | {"layers.8.weight": np.ones((1, 1), np.float32)})
    with pytest.raises(BuildError, match=r"layers.0.weight is \(1024, 512\), not \(1024, 768\)"):
        aesthetic_model(good | {"layers.0.weight": np.ones((1024, 512), np.float32)})
