"""SAM as ONNX against segment_anything, on the same checkpoint: every intermediate value, then the masks."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from _starter import import_quietly, run, run_onnxruntime

from imgeval.errors import BuildError
from imgeval.metrics.sam import MaskOptions, encoder_input, generate_masks
from imgeval_export import sam_encoder
from imgeval_export.graph import Graph, save_model
from imgeval_export.pth import read_pth
from imgeval_export.random_weights_sam import random_sam_checkpoint, random_sam_state
from imgeval_export.sam import VIT_B, VIT_H, VIT_L, SamSizes, expected_shapes, sam_sizes
from imgeval_export.sam_decoder import sam_decoder_model, sam_points_model
from imgeval_export.sam_encoder import sam_encoder_model
from tests.reference.sam import (
    DIVIDED,
    OVERSIZED,
    PHOTOS,
    TINY,
    by_point,
    differences,
    gap,
    photo,
    torch_quietly,
    upstream_masks,
    upstream_sam,
    upstream_shapes,
)

TOLERANCE = 1e-4
ALL = np.array([-np.inf], np.float32)  # least predicted IoU, with which every mask comes out


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "sam_tiny.pth"
    random_sam_checkpoint(path, TINY)
    return path


@pytest.fixture(scope="module")
def original(checkpoint: Path) -> Any:
    return upstream_sam(TINY, checkpoint)


def photos(size_px: int) -> np.ndarray:
    """(3, 3, S, S)"""
    return np.concatenate([encoder_input(photo(name), size_px) for name in PHOTOS])


def upstream_embeddings(sam: Any, pixels: np.ndarray) -> np.ndarray:
    torch = torch_quietly()
    with torch.no_grad():
        return sam.image_encoder(torch.from_numpy(pixels)).numpy()


def grid(count: int, size_px: int) -> np.ndarray:
    """(count, 2) points in the encoder's input, not on whole pixels."""
    return np.random.default_rng(0).uniform(0, size_px, (count, 2)).astype(np.float32)


def assert_equal(what: str, ours: np.ndarray, theirs: np.ndarray, spread: float, tolerance: float = TOLERANCE) -> None:
    """Print the differences; they must be small, and small next to `spread`, how much the values vary."""
    assert ours.shape == theirs.shape
    difference = np.abs(ours - theirs)
    print(f"\n{what}: max {difference.max():.1e}, mean {difference.mean():.1e}; spread {spread:.2g}")
    assert spread > 10 * tolerance, "the values vary too little for the tolerance to mean anything"
    assert difference.max() < tolerance


# --- names and shapes ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes", [VIT_B, VIT_L, VIT_H, TINY, DIVIDED, OVERSIZED])
def test_names_and_shapes_are_upstreams(sizes: SamSizes) -> None:
    shapes = expected_shapes(sizes)
    assert shapes == upstream_shapes(sizes)
    state = {name: np.broadcast_to(np.float32(1), shape) for name, shape in shapes.items()}
    assert sam_sizes(state) == sizes


@pytest.mark.parametrize(("name", "sizes"), [("vit_b", VIT_B), ("vit_l", VIT_L), ("vit_h", VIT_H)])
def test_the_published_sizes_are_those_of_the_registry(name: str, sizes: SamSizes) -> None:
    torch = torch_quietly()
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        theirs = sam_model_registry[name]()
    encoder = theirs.image_encoder
    assert expected_shapes(sizes) == {key: tuple(tensor.shape) for key, tensor in theirs.state_dict().items()}
    assert encoder.img_size == sizes.image_size_px
    assert encoder.blocks[0].attn.num_heads == sizes.heads
    assert tuple(i for i, block in enumerate(encoder.blocks) if not block.window_size) == sizes.global_blocks


def test_wrong_weights_are_named() -> None:
    good = {name: np.broadcast_to(np.float32(1), shape) for name, shape in expected_shapes(TINY).items()}
    name = "mask_decoder.transformer.layers.1.cross_attn_image_to_token.q_proj.weight"
    with pytest.raises(BuildError, match=f"missing: {name}"):
        sam_decoder_model({key: value for key, value in good.items() if key != name})
    with pytest.raises(BuildError, match=rf"{name} is \(2, 2\), not \(128, 256\)"):
        sam_decoder_model(good | {name: np.ones((2, 2), np.float32)})
    with pytest.raises(BuildError, match=r"unexpected: image_encoder.blocks.3.norm1.weight"):
        sam_encoder_model(good | {"image_encoder.blocks.3.norm1.weight": np.ones(64, np.float32)})
    with pytest.raises(BuildError, match="pos_embed"):
        sam_points_model({})


# --- the encoder -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes", [TINY, DIVIDED, OVERSIZED])
@pytest.mark.parametrize("max_queries", [1024, 70])
def test_embeddings_equal_upstream(
    sizes: SamSizes, max_queries: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sam_encoder, "MAX_QUERIES", max_queries)
    random_sam_checkpoint(tmp_path / "sam.pth", sizes)
    pixels = photos(sizes.image_size_px)
    theirs = upstream_embeddings(upstream_sam(sizes, tmp_path / "sam.pth"), pixels)
    spread = float(theirs.std(axis=0).mean())  # over the photos, at the same place
    model = sam_encoder_model(read_pth(tmp_path / "sam.pth"))
    assert_equal("OpenVINO", run(model, PIXELS=pixels)["EMBEDDING"], theirs, spread)
    assert_equal("ONNX Runtime", run_onnxruntime(model, PIXELS=pixels)["EMBEDDING"], theirs, spread)


# --- the decoder -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def decoded(original: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Upstream's embedding, points (N, 2), point tokens (N, 256), masks and IoUs of the first photo."""
    torch = torch_quietly()
    embedding = upstream_embeddings(original, photos(TINY.image_size_px)[:1])
    points = grid(40, TINY.image_size_px)
    with torch.no_grad():
        prompt = torch.from_numpy(points)[:, None], torch.ones(len(points), 1, dtype=torch.int)
        sparse, dense = original.prompt_encoder(points=prompt, boxes=None, masks=None)
        masks, iou = original.mask_decoder(
            image_embeddings=torch.from_numpy(embedding),
            image_pe=original.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
    return embedding, points, sparse[:, 0].numpy(), masks.numpy(), iou.numpy()


@pytest.mark.parametrize("runtime", [run, run_onnxruntime])
def test_masks_and_predicted_ious_equal_upstream(checkpoint: Path, decoded: Any, runtime: Any) -> None:
    embedding, points, tokens, masks, iou = decoded
    state = read_pth(checkpoint)
    ours = runtime(sam_points_model(state), POINTS=points)["POINT_TOKENS"]
    assert_equal("point tokens", ours, tokens, float(tokens.std(axis=0).mean()))
    outputs = runtime(sam_decoder_model(state), EMBEDDING=embedding, POINT_TOKENS=ours, MIN_IOU=ALL)
    all_masks = outputs["MASKS"].reshape(masks.shape)
    assert_equal("logits", all_masks, masks, float(masks.std(axis=0).mean()), tolerance=1e-3)
    assert_equal("predicted IoU", outputs["IOU"], iou, float(iou.std(axis=0).mean()))


@pytest.mark.parametrize("runtime", [run, run_onnxruntime])
@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9, 1.0])
def test_only_masks_above_the_least_predicted_iou_come_out(
    checkpoint: Path, decoded: Any, runtime: Any, quantile: float
) -> None:
    embedding, _, tokens, masks, iou = decoded
    least = np.array([np.quantile(iou, quantile)], np.float32)  # 0: all but the worst; 1: none
    outputs = runtime(sam_decoder_model(read_pth(checkpoint)), EMBEDDING=embedding, POINT_TOKENS=tokens, MIN_IOU=least)
    wanted = outputs["IOU"] > least
    expected = masks[wanted]
    print(f"\n{len(expected)} of {iou.size} masks, of {wanted.any(axis=1).sum()} of {len(iou)} points")
    assert outputs["MASKS"].shape == expected.shape
    np.testing.assert_allclose(outputs["MASKS"], expected, atol=1e-3)


def test_a_point_does_not_depend_on_its_neighbours(checkpoint: Path, decoded: Any) -> None:
    embedding, _, tokens, _, _ = decoded
    model = sam_decoder_model(read_pth(checkpoint))
    together = run_onnxruntime(model, EMBEDDING=embedding, POINT_TOKENS=tokens, MIN_IOU=ALL)
    alone = run_onnxruntime(model, EMBEDDING=embedding, POINT_TOKENS=tokens[7:8], MIN_IOU=ALL)
    np.testing.assert_allclose(alone["MASKS"], together["MASKS"][3 * 7 : 3 * 8], atol=1e-4)
    np.testing.assert_allclose(alone["IOU"][0], together["IOU"][7], atol=1e-4)


def test_points_stay_precise_where_the_runtime_is_asked_for_bfloat16(checkpoint: Path, decoded: Any) -> None:
    _, points, tokens, _, _ = decoded
    model = compiled(sam_points_model(read_pth(checkpoint)), precision="bf16")
    np.testing.assert_allclose(model({"POINTS": points})["POINT_TOKENS"], tokens, atol=TOLERANCE)


# --- masks -----------------------------------------------------------------------------------------------------------
def compiled(model: onnx.ModelProto, precision: str = "f32") -> Any:
    openvino = import_quietly("openvino")
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": 2}
    return core.compile_model(core.read_model(io.BytesIO(model.SerializeToString())), "CPU", options)


@pytest.mark.parametrize("name", PHOTOS)
def test_the_exported_models_find_the_masks_that_upstream_finds(original: Any, checkpoint: Path, name: str) -> None:
    state = read_pth(checkpoint)
    encoder, pointer, decoder = map(
        compiled, (sam_encoder_model(state), sam_points_model(state), sam_decoder_model(state))
    )

    def encode(pixels: np.ndarray) -> np.ndarray:
        return encoder({"PIXELS": pixels})["EMBEDDING"].copy()

    def decode(embedding: np.ndarray, points: np.ndarray, min_iou: float) -> tuple[np.ndarray, np.ndarray]:
        tokens = pointer({"POINTS": points})["POINT_TOKENS"]
        least = np.array([min_iou], np.float32)
        outputs = decoder({"EMBEDDING": embedding, "POINT_TOKENS": tokens, "MIN_IOU": least})
        return outputs["MASKS"].copy(), outputs["IOU"].copy()

    rgb = photo(name)
    off: dict[str, Any] = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    theirs = [mask for mask in upstream_masks(original, rgb, points_per_side=8, **off) if mask["area"]]
    ours = generate_masks(rgb, encode, decode, MaskOptions(TINY.image_size_px, points_per_side=8, **off))
    candidates = differences(tuple(sorted(ours, key=by_point)), sorted(theirs, key=by_point))
    print(f"\n{name}, {len(ours)} candidates: {candidates}")

    thresholds = {
        "pred_iou_thresh": gap(np.array([mask["predicted_iou"] for mask in theirs]), 0.3),
        "stability_score_thresh": gap(np.array([mask["stability_score"] for mask in theirs]), 0.4),
    }
    theirs = upstream_masks(original, rgb, points_per_side=8, **thresholds)
    ours = generate_masks(rgb, encode, decode, MaskOptions(TINY.image_size_px, points_per_side=8, **thresholds))
    kept = differences(ours, theirs)
    print(f"{name}, {len(ours)} kept: {kept}")
    assert 10 <= len(ours) <= 100
    for found in (candidates, kept):
        assert found.iou < 1e-4 < found.iou_spread / 10
        assert found.stability < 1e-3 < found.stability_spread / 10
        assert found.box_px <= 1
        assert found.area < 1e-3
        assert found.pixels < 1e-3


# --- random weights --------------------------------------------------------------------------------------------------
def test_random_weights_are_the_same_for_the_same_seed(checkpoint: Path, tmp_path: Path) -> None:
    random_sam_checkpoint(tmp_path / "again.pth", TINY)
    random_sam_checkpoint(tmp_path / "other.pth", TINY, seed=1)
    assert (tmp_path / "again.pth").read_bytes() == checkpoint.read_bytes()
    assert (tmp_path / "other.pth").read_bytes() != checkpoint.read_bytes()


# --- files and imports -----------------------------------------------------------------------------------------------
def test_a_model_too_large_for_one_file_keeps_its_weights_in_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnxruntime = import_quietly("onnxruntime")
    monkeypatch.setattr("imgeval_export.graph.MAX_FILE_BYTES", 100_000)
    state, pixels = random_sam_state(OVERSIZED), photos(OVERSIZED.image_size_px)
    expected = run_onnxruntime(sam_encoder_model(state), PIXELS=pixels)["EMBEDDING"]
    path = tmp_path / "model.onnx"
    for _ in range(2):  # the second time over the files of the first
        save_model(sam_encoder_model(state), path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert path.stat().st_size < 100_000 < (tmp_path / "model.onnx.data").stat().st_size < 10_000_000
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(["EMBEDDING"], {"PIXELS": pixels})[0], expected)
    openvino = import_quietly("openvino")
    model = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(model({"PIXELS": pixels})["EMBEDDING"], expected, atol=TOLERANCE)


def test_a_small_model_is_one_file(tmp_path: Path) -> None:
    model = sam_points_model(random_sam_state(OVERSIZED))
    save_model(model, tmp_path / "model.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert onnx.load(tmp_path / "model.onnx") == model


def test_a_wrong_graph_is_refused_whatever_the_size_of_its_weights() -> None:
    graph = Graph("broken")
    graph.input("X", ("B", 300))
    graph.node("MatMul", "X", graph.constant("W", np.ones((400, 300))), output="Y")
    graph.output("Y", ("B", 300))
    with pytest.raises(onnx.shape_inference.InferenceError):
        graph.model()


def test_building_needs_neither_torch_nor_a_runtime() -> None:
    modules = "pth, random_weights_sam, sam_decoder, sam_encoder"
    code = f"import sys; from imgeval_export import {modules}; print([m for m in sys.modules if '.' not in m])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    for heavy in ("torch", "segment_anything", "onnxruntime", "openvino", "PIL"):
        assert f"'{heavy}'" not in loaded
