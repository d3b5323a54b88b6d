"""CLIP's towers as ONNX against open_clip itself: the same random checkpoint, real photos and prompts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from _clip import PROMPTS, TINY, assert_close, original, original_tokenizer, photo_files, photos, tiny_state
from _starter import import_quietly, run, run_onnxruntime, third_party_warnings_ignored
from PIL import Image

from imgeval.errors import BuildError
from imgeval_export.clip import VIT_L_14, clip_image_model, clip_sizes, clip_text_model, expected_shapes
from imgeval_export.random_weights_clip import random_clip_state

TOLERANCE = 1e-5  # of an element of an embedding, and of a cosine

Runner = Callable[..., dict[str, np.ndarray]]
both_runtimes = pytest.mark.parametrize("runner", [run, run_onnxruntime])


@pytest.fixture(scope="module")
def image_model() -> onnx.ModelProto:
    return clip_image_model(tiny_state())


@pytest.fixture(scope="module")
def text_model() -> onnx.ModelProto:
    return clip_text_model(tiny_state())


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    """The prompts as open_clip tokenises them, (6, 77)."""
    return original_tokenizer()(list(PROMPTS)).numpy()


def upstream(images: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Image and text embeddings by open_clip."""
    torch = import_quietly("torch")
    with torch.inference_mode(), third_party_warnings_ignored():
        image = original().encode_image(torch.tensor(images), normalize=True).numpy()
        return image, original().encode_text(torch.tensor(ids), normalize=True).numpy()


def test_pixels_equal_open_clips() -> None:
    open_clip = import_quietly("open_clip")
    with third_party_warnings_ignored():
        transform = open_clip.image_transform(original().visual.image_size, is_train=False)  # OpenAI's mean and std
    theirs = []
    for file in photo_files():
        with Image.open(file) as image:
            theirs.append(transform(image).numpy())
    assert_close("pixels", photos(), np.stack(theirs), 1 / 255)
    np.testing.assert_array_equal(photos(), np.stack(theirs))  # and bit for bit


@both_runtimes
def test_embeddings_and_cosines_equal_open_clips(
    runner: Runner, image_model: onnx.ModelProto, text_model: onnx.ModelProto, ids: np.ndarray
) -> None:
    image, text = upstream(photos(), ids)
    our_image = runner(image_model, PIXELS=photos())["EMBEDDING"]
    our_text = runner(text_model, INPUT_IDS=ids)["EMBEDDING"]
    assert_close("image embeddings", our_image, image, TOLERANCE)
    assert_close("text embeddings", our_text, text, TOLERANCE)
    assert_close("cosines", (our_image @ our_text.T).reshape(-1), (image @ text.T).reshape(-1), TOLERANCE)
    for embeddings in (our_image, our_text):
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


@both_runtimes
def test_padding_behind_the_end_changes_nothing(runner: Runner, text_model: onnx.ModelProto, ids: np.ndarray) -> None:
    short = ids[[0, 2, 3]]
    assert ((short != 0).sum(axis=1) <= 16).all()
    full = runner(text_model, INPUT_IDS=short)["EMBEDDING"]
    for length in (13, 16, 32):
        assert_close(f"{length} tokens", runner(text_model, INPUT_IDS=short[:, :length])["EMBEDDING"], full, TOLERANCE)


@both_runtimes
def test_a_row_does_not_depend_on_its_neighbours(
    runner: Runner, image_model: onnx.ModelProto, text_model: onnx.ModelProto, ids: np.ndarray
) -> None:
    images = photos()
    together = runner(image_model, PIXELS=images)["EMBEDDING"]
    alone = [runner(image_model, PIXELS=images[row : row + 1])["EMBEDDING"] for row in range(len(images))]
    assert_close("images one by one", np.concatenate(alone), together, TOLERANCE)
    together = runner(text_model, INPUT_IDS=ids)["EMBEDDING"]
    alone = [runner(text_model, INPUT_IDS=ids[row : row + 1])["EMBEDDING"] for row in range(len(ids))]
    assert_close("texts one by one", np.concatenate(alone), together, TOLERANCE)


def test_the_first_of_several_ends_counts(text_model: onnx.ModelProto) -> None:
    ids = np.array([[49406, 320, 49407, 0], [49406, 320, 49407, 49407]])
    first, second = run(text_model, INPUT_IDS=ids)["EMBEDDING"]
    np.testing.assert_array_equal(first, second)


def test_half_precision_checkpoints_are_read(image_model: onnx.ModelProto) -> None:
    half = {name: values.astype(np.float16) for name, values in tiny_state().items()}
    rounded = {name: values.astype(np.float32) for name, values in half.items()}
    ours, theirs = (run(clip_image_model(state), PIXELS=photos())["EMBEDDING"] for state in (half, rounded))
    assert_close("float16 checkpoint", ours, theirs, TOLERANCE)


def test_sizes_are_read_off_the_tensors() -> None:
    assert clip_sizes(tiny_state()) == TINY
    stand_in = np.broadcast_to(np.float32(0), ())
    shapes = expected_shapes(VIT_L_14)
    assert clip_sizes({name: np.broadcast_to(stand_in, shape) for name, shape in shapes.items()}) == VIT_L_14
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == 427_616_513  # as open_clip counts its parameters


def test_same_weights_give_the_same_bytes(image_model: onnx.ModelProto, text_model: onnx.ModelProto) -> None:
    assert all(np.array_equal(values, tiny_state()[name]) for name, values in random_clip_state(TINY).items())
    assert clip_image_model(tiny_state()).SerializeToString() == image_model.SerializeToString()
    assert clip_text_model(tiny_state()).SerializeToString() == text_model.SerializeToString()


def test_random_weights_are_saved_as_published(tmp_path: Path, ids: np.ndarray) -> None:
    torch, open_clip = import_quietly("torch"), import_quietly("open_clip")
    file = tmp_path / "open_clip_model.safetensors"
    pytest.importorskip("safetensors.numpy").save_file(random_clip_state(TINY, seed=1), file)
    model = copy.deepcopy(original())
    with third_party_warnings_ignored(), torch.inference_mode():
        open_clip.load_checkpoint(model, str(file), strict=True)
        theirs = model.encode_text(torch.tensor(ids), normalize=True).numpy()
    state = pytest.importorskip("safetensors.numpy").load_file(file)
    assert_close("text embeddings, seed 1", run(clip_text_model(state), INPUT_IDS=ids)["EMBEDDING"], theirs, TOLERANCE)


@pytest.mark.parametrize("build", [clip_image_model, clip_text_model])
def test_wrong_weights_are_named(build: Callable[[dict[str, np.ndarray]], onnx.ModelProto]) -> None:
    good = tiny_state()
    name = "visual.transformer.resblocks.1.mlp.c_fc.bias"

    def without(missing: str) -> dict[str, np.ndarray]:
        return {key: value for key, value in good.items() if key != missing}

    with pytest.raises(BuildError, match=f"missing: {name}"):
        build(without(name))
    with pytest.raises(BuildError, match=r"missing: visual.conv1.weight"):
        build(without("visual.conv1.weight"))
    with pytest.raises(BuildError, match=r"visual.conv1.weight is \(3, 3\), not 4 axes"):
        build(good | {"visual.conv1.weight": np.ones((3, 3), np.float32)})
    with pytest.raises(BuildError, match=rf"{name} is \(3,\), not \(512,\)"):
        build(good | {name: np.ones(3, np.float32)})
    with pytest.raises(BuildError, match=r"unexpected: visual.head.weight"):
        build(good | {"visual.head.weight": np.ones(3, np.float32)})
    with pytest.raises(BuildError, match="not finite floats: logit_scale"):
        build(good | {"logit_scale": np.array(np.nan, np.float32)})
    with pytest.raises(BuildError, match=r"missing: visual.transformer.resblocks.0.ln_1.weight"):
        build({key.replace("resblocks.0.", "resblocks.7."): value for key, value in good.items()})
    with pytest.raises(BuildError, match="100 wide; allowed are multiples of 64"):
        build(good | {"token_embedding.weight": np.ones((49408, 100), np.float32)})
