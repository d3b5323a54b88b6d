"""ConSE against its formula computed from the original classifier and the original text encoder."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from _starter import (
    PHOTOS,
    assert_close,
    efficientnet_file,
    import_quietly,
    minilm_folder,
    photos,
    run,
    run_onnxruntime,
    third_party_warnings_ignored,
)
from test_minilm import token_ids, weights

from imgeval.errors import BuildError
from imgeval_export.classes import imagenet_classes
from imgeval_export.conse import CLASS_PROMPT, TOP_K, conse_model
from imgeval_export.legacy_pth import read_legacy_pth
from imgeval_export.minilm import minilm_model

PHOTO_PROMPTS = {
    "coffee.png": "A cup of espresso coffee with a spoon on a wooden table.",
    "chelsea.png": "A close-up of a tabby cat's face.",
    "rocket.jpg": "A rocket standing on the launch pad at night.",
}


@pytest.fixture(scope="module")
def text_model() -> onnx.ModelProto:
    return minilm_model(weights())


@pytest.fixture(scope="module")
def class_embeddings(text_model: onnx.ModelProto) -> np.ndarray:
    ids = token_ids([CLASS_PROMPT.format(name) for name in imagenet_classes()])
    return run_onnxruntime(text_model, INPUT_IDS=ids)["EMBEDDING"]  # (1000, 384)


@pytest.fixture(scope="module")
def model(class_embeddings: np.ndarray) -> onnx.ModelProto:
    return conse_model(read_legacy_pth(efficientnet_file()), class_embeddings)


def test_embeddings_equal_the_formula(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch = import_quietly("torch")
    classifier = import_quietly("efficientnet_lite_pytorch")
    text = import_quietly("sentence_transformers")
    with third_party_warnings_ignored(), torch.inference_mode():
        network = classifier.EfficientNet.from_pretrained("efficientnet-lite2", weights_path=str(efficientnet_file()))
        probabilities = network.eval()(torch.from_numpy(photos())).softmax(dim=1)  # (4, 1000)
        encoder = text.SentenceTransformer(str(minilm_folder()), device="cpu")
        words = torch.from_numpy(encoder.encode([f"a photo of {name}" for name in imagenet_classes()]))  # (1000, 384)
        top, classes = probabilities.topk(TOP_K)  # (4, 10)
        mean = ((top / top.sum(dim=1, keepdim=True))[..., None] * words[classes]).sum(dim=1)  # (4, 384)
        original = torch.nn.functional.normalize(mean).numpy()
    assert_close("ConSE, OpenVINO", run(model, PIXELS=photos())["EMBEDDING"], original)
    assert_close("ConSE, ONNX Runtime", run_onnxruntime(model, PIXELS=photos())["EMBEDDING"], original)


def test_a_row_does_not_depend_on_its_neighbours(model: onnx.ModelProto) -> None:
    together = run(model, PIXELS=photos())["EMBEDDING"]
    alone = [run(model, PIXELS=row[None])["EMBEDDING"] for row in photos()]
    assert_close("one by one", np.concatenate(alone), together)


def test_each_prompt_finds_its_photo(model: onnx.ModelProto, text_model: onnx.ModelProto) -> None:
    images = run(model, PIXELS=photos())["EMBEDDING"]
    texts = run(text_model, INPUT_IDS=token_ids(list(PHOTO_PROMPTS.values())))["EMBEDDING"]
    cosines = texts @ images.T  # (3, 4)
    print(f"\n{np.round(cosines, 2)}")
    assert [PHOTOS[index] for index in cosines.argmax(axis=1)] == list(PHOTO_PROMPTS)


def test_same_weights_give_the_same_bytes(model: onnx.ModelProto, class_embeddings: np.ndarray) -> None:
    again = conse_model(read_legacy_pth(efficientnet_file()), class_embeddings)
    assert again.SerializeToString() == model.SerializeToString()


def test_class_names_equal_torchvisions() -> None:
    meta = import_quietly("torchvision.models._meta")
    assert list(imagenet_classes()) == meta._IMAGENET_CATEGORIES


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(BuildError, match=r"\(999, 384\), not \(1000, D\)"):
        conse_model({}, np.zeros((999, 384), np.float32))
    with pytest.raises(BuildError, match="top_k is 0"):
        conse_model({}, np.zeros((1000, 384), np.float32), top_k=0)
