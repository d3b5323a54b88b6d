"""MiniLM as ONNX against sentence-transformers, on the real weights and prompts of many lengths."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from _starter import assert_close, import_quietly, minilm_folder, run, run_onnxruntime, third_party_warnings_ignored

from imgeval.errors import BuildError
from imgeval_export.minilm import MAX_TOKENS, expected_shapes, minilm_model

PROMPTS = [
    "",
    "cat",
    "A happy dog wearing a colorful scarf standing on green grass.",
    "A woman looking upwards with a thoughtful expression, standing against a backdrop of dry branches.",
    "Überraschung: ein Café in Zürich, 東京の夜, naïve façade & 100 % emoji 🙂",
    "A plane flying in a stormy sky with lightning striking. " * 5,
    "red, green and blue lights over a city at night, " * 60,  # far beyond 256 tokens
]


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return minilm_model(weights())


def weights() -> dict[str, np.ndarray]:
    safetensors = pytest.importorskip("safetensors.numpy")
    return safetensors.load_file(minilm_folder() / "model.safetensors")


def token_ids(prompts: list[str]) -> np.ndarray:
    """(B, L), filled up to the longest prompt."""
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = tokenizers.Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.enable_truncation(256)  # max_seq_length of sentence_bert_config.json
    tokenizer.enable_padding(pad_id=0)  # pad_token_id of config.json
    return np.array([encoding.ids for encoding in tokenizer.encode_batch(prompts)], np.int64)


def test_embeddings_equal_the_original(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    package = import_quietly("sentence_transformers")
    with third_party_warnings_ignored():
        original = package.SentenceTransformer(str(minilm_folder()), device="cpu").encode(PROMPTS)
    ids = token_ids(PROMPTS)
    lengths = (ids != 0).sum(axis=1)
    print(f"\ntokens per prompt: {lengths.tolist()}")
    assert lengths.max() == MAX_TOKENS
    assert lengths.min() == 2  # the empty prompt: [CLS] [SEP]
    assert_close("embeddings, OpenVINO", run(model, INPUT_IDS=ids)["EMBEDDING"], original)
    assert_close("embeddings, ONNX Runtime", run_onnxruntime(model, INPUT_IDS=ids)["EMBEDDING"], original)


def test_a_row_does_not_depend_on_its_neighbours_or_its_padding(model: onnx.ModelProto) -> None:
    together = run_onnxruntime(model, INPUT_IDS=token_ids(PROMPTS))["EMBEDDING"]
    alone = [run_onnxruntime(model, INPUT_IDS=token_ids([prompt]))["EMBEDDING"][0] for prompt in PROMPTS]
    assert_close("one by one", np.stack(alone), together)


def test_embeddings_have_length_one_and_padding_alone_gives_zeros(model: onnx.ModelProto) -> None:
    ids = np.zeros((2, 5), np.int64)
    ids[0, :3] = 101, 4937, 102  # [CLS] cat [SEP]
    embedding = run(model, INPUT_IDS=ids)["EMBEDDING"]
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), [1, 0], atol=1e-6)


def test_same_weights_give_the_same_bytes(model: onnx.ModelProto) -> None:
    assert minilm_model(weights()).SerializeToString() == model.SerializeToString()


def test_wrong_weights_are_named() -> None:
    shapes = expected_shapes()
    name = "encoder.layer.5.output.dense.weight"
    good = {key: np.broadcast_to(np.float32(1), shape) for key, shape in shapes.items()}
    with pytest.raises(BuildError, match=f"missing: {name}"):
        minilm_model({key: value for key, value in good.items() if key != name})
    with pytest.raises(BuildError, match=rf"{name} is \(2, 2\), not \(384, 1536\)"):
        minilm_model(good | {name: np.ones((2, 2), np.float32)})
    with pytest.raises(BuildError, match=r"unexpected: encoder.layer.6.output.dense.bias"):
        minilm_model(good | {"encoder.layer.6.output.dense.bias": np.ones(384, np.float32)})
