"""SAM as its authors published it: segment_anything's own modules, at any size, on a checkpoint in their format."""

from __future__ import annotations

import importlib.util
import warnings
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from imgeval.metrics.sam import SamMask
from imgeval_export.sam import SamSizes

PHOTOS = ("astronaut.png", "coffee.png", "rocket.jpg")  # 512 x 512, 600 x 400 and 640 x 427 px

# Small enough for seconds: windows that divide the grid and windows that do not, and one larger than the grid.
TINY = SamSizes(width=64, heads=2, depth=3, global_blocks=(1,), grid=16, window=7)
DIVIDED = SamSizes(width=64, heads=4, depth=2, global_blocks=(1,), grid=12, window=4)
OVERSIZED = SamSizes(width=32, heads=2, depth=2, global_blocks=(0,), grid=10, window=14)


def photo(name: str) -> np.ndarray:
    """A photo that scikit-image carries, (H, W, 3); skips the test where it is absent. Does not import scikit-image."""
    spec = importlib.util.find_spec("skimage")
    file = Path(spec.origin).parent / "data" / name if spec and spec.origin else Path("absent")
    if not file.exists():
        pytest.skip(f"scikit-image carries no {name}")
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def torch_quietly() -> Any:
    """torch, after segment_anything and torchvision, whose imports warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("segment_anything")
        return pytest.importorskip("torch")


def upstream_sam(sizes: SamSizes, checkpoint: Path | None = None) -> Any:
    """`segment_anything.modeling.Sam` as build_sam.py makes it, but of these sizes; every tensor must be there."""
    torch = torch_quietly()
    from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

    size_px, cells = sizes.image_size_px, (sizes.grid, sizes.grid)
    sam = Sam(
        image_encoder=ImageEncoderViT(
            depth=sizes.depth,
            embed_dim=sizes.width,
            img_size=size_px,
            mlp_ratio=4,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=sizes.heads,
            patch_size=16,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=sizes.global_blocks,
            window_size=sizes.window,
            out_chans=256,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=256, image_embedding_size=cells, input_image_size=(size_px, size_px), mask_in_chans=16
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
            transformer_dim=256,
            iou_head_depth=3,
            iou_head_hidden_dim=256,
        ),
    ).eval()
    if checkpoint is not None:
        sam.load_state_dict(torch.load(checkpoint, weights_only=True), strict=True)
    return sam


def upstream_shapes(sizes: SamSizes) -> dict[str, tuple[int, ...]]:
    """Names and shapes of upstream's state dict, without any memory for it."""
    with torch_quietly().device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in upstream_sam(sizes).state_dict().items()}


def upstream_masks(sam: Any, rgb: np.ndarray, **options: Any) -> list[dict[str, Any]]:
    """What SamAutomaticMaskGenerator returns."""
    from segment_anything import SamAutomaticMaskGenerator

    return SamAutomaticMaskGenerator(sam, **options).generate(rgb)


class Differences(NamedTuple):
    """How far two sets of masks are apart: largest differences, and the spread of the values."""

    iou: float
    stability: float
    box_px: float
    area: float  # of the larger one
    pixels: float  # of the image
    iou_spread: float
    stability_spread: float


def differences(ours: tuple[SamMask, ...], theirs: list[dict[str, Any]]) -> Differences:
    """Compare masks in order; raises AssertionError where their number or the points behind them differ."""
    assert len(ours) == len(theirs) > 0
    np.testing.assert_allclose([mask.point for mask in ours], [mask["point_coords"][0] for mask in theirs], atol=1e-9)
    iou, stability = (np.array([mask[key] for mask in theirs]) for key in ("predicted_iou", "stability_score"))
    box = np.array([mask["bbox"] for mask in theirs])  # (N, 4)
    area = np.array([mask["area"] for mask in theirs])
    our_area = np.array([mask.segment.area for mask in ours])
    changed = [
        np.mean(full_mask(mask, theirs[0]["segmentation"].shape) != other["segmentation"])
        for mask, other in zip(ours, theirs, strict=True)
    ]
    return Differences(
        iou=float(np.abs([mask.predicted_iou for mask in ours] - iou).max()),
        stability=float(np.abs([mask.stability for mask in ours] - stability).max()),
        box_px=float(np.abs(np.array([mask.bbox for mask in ours]) - box).max()),
        area=float((np.abs(our_area - area) / np.maximum(our_area, area)).max()),
        pixels=float(np.max(changed)),
        iou_spread=float(iou.std()),
        stability_spread=float(stability.std()),
    )


def full_mask(mask: SamMask, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool."""
    x, y, width, height = mask.segment.box
    full = np.zeros(shape, np.bool_)
    full[y : y + height, x : x + width] = mask.segment.mask
    return full


def by_point(mask: SamMask | dict[str, Any]) -> tuple[float, ...]:
    """Sort key under which candidates with thresholds off correspond: predicted IoU alone may swap near-equal ones."""
    if isinstance(mask, SamMask):
        return (*mask.point[::-1], mask.predicted_iou)
    return (*mask["point_coords"][0][::-1], mask["predicted_iou"])


def gap(values: np.ndarray, quantile: float) -> float:
    """A threshold near a quantile, in the middle of the widest gap there: rounding puts no value on its other side."""
    values = np.sort(values)
    middle, reach = int(len(values) * quantile), len(values) // 20
    start = middle - reach + int(np.argmax(np.diff(values[middle - reach : middle + reach + 1])))
    return float((values[start] + values[start + 1]) / 2)
