"""A SAM checkpoint with random weights: published file format, tensor names and shapes, at any size of encoder.

For proving equality where the published weights cannot be had; its masks mean nothing. Plain random weights would prove
little: their masks are specks all over the image, whose boxes are all the same. So these are random but for one path:

    a pixel attends to the token whose position resembles its own; the point's token has a value that the others lack;
    that value makes a spot around the point in some channels of the upscaled image, which every mask adds up

The random rest, the image's part, shapes the spot's outline. Logits vary far beyond the stability offset, predicted
IoUs around 0.9.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imgeval_export.sam import MASK_TOKENS, SamSizes, expected_shapes
from imgeval_export.zip_pth import write_zip_pth

Weights = dict[str, NDArray[np.float32]]

# Standard deviation of the tensors that are not matrices of a layer, by part of their name
DEVIATIONS = {
    "rel_pos": 0.3,
    "pos_embed": 0.3,
    "gaussian_matrix": 0.6,  # lower than the published 1: wider spots
    "point_embeddings": 1.0,
    "not_a_point_embed": 0.3,
    "no_mask_embed": 0.1,
    "token": 0.3,
}
# Factors on matrices, by part of their name; without one a layer keeps the scale of its input. Tokens attend to
# themselves and change little on their way, or all seven become alike.
GAINS = {
    "mlp.lin2": 0.5,
    "self_attn.q_proj": 3.0,
    "self_attn.k_proj": 3.0,
    "transformer.layers.1.self_attn.out_proj": 0.5,
    "token_to_image.out_proj": 0.25,
    "token_to_image.q_proj": 2.0,
    "token_to_image.k_proj": 2.0,
    "image_to_token.q_proj": 2.0,
    "image_to_token.k_proj": 2.0,
    "transformer.layers.0.cross_attn_image_to_token.out_proj": 0.3,
    "iou_prediction_head.layers.2": 0.15,
}
SMALL_NORM = 0.3  # gain of the layer norms whose output meets positions, which have a deviation of 0.7
MEAN_IOU = 0.8  # about; with the default options about 75 masks of a photo are kept
SPOT = 1.2  # weight of the spot in a mask
TEXTURE = 1.2  # weight of everything else
OFFSETS = (0.0, 1.6, 3.2, 4.8)  # subtracted from the masks, by mask token: the larger, the smaller the mask


def random_sam_state(sizes: SamSizes, seed: int = 0) -> Weights:
    """A state dict for `sizes`, float32; the same for the same seed."""
    state = {name: _random(name, shape, seed) for name, shape in expected_shapes(sizes).items()}
    _plant_spot({name.removeprefix("mask_decoder."): array for name, array in state.items()}, seed)
    return state


def random_sam_checkpoint(path: str | Path, sizes: SamSizes, seed: int = 0) -> None:
    """Write `random_sam_state` to `path` as torch.save writes a published checkpoint."""
    write_zip_pth(random_sam_state(sizes, seed), path)


def _random(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    # Queries and keys of the decoder share their projection: what is alike attends to each other.
    shared = name.replace("q_proj", "k_proj") if "transformer" in name else name
    normal = np.random.default_rng([seed, zlib.crc32(shared.encode())]).standard_normal(shape, np.float32)
    if name.endswith("bias"):
        return np.full(shape, MEAN_IOU, np.float32) if "iou_prediction_head.layers.2" in name else 0.1 * normal
    if len(shape) == 1:  # the gain of a layer norm
        small = "transformer.layers" in name or "neck.3" in name
        return (1 + 0.1 * normal) * np.float32(SMALL_NORM if small else 1)
    for part, deviation in DEVIATIONS.items():
        if part in name and "transformer" not in name:
            return normal * np.float32(deviation)
    inputs = shape[0] if "output_upscaling" in name else np.prod(shape[1:])
    gain = np.prod([factor for part, factor in GAINS.items() if part in name])
    return normal * np.float32(gain / np.sqrt(inputs))


def _plant_spot(state: Weights, seed: int) -> None:
    """Change the mask decoder's weights in place so that masks are spots around their points."""
    random = np.random.default_rng([seed, 1])
    point = state["prompt_encoder.point_embeddings.1.weight"][0]  # (256,)
    others = ("iou_token.weight", "mask_tokens.weight", "prompt_encoder.not_a_point_embed.weight")

    # What the first layer makes of the tokens: the attention to itself.
    layer = "transformer.layers.0.self_attn"
    through = state[f"{layer}.out_proj.weight"] @ state[f"{layer}.v_proj.weight"]  # (256, 256)
    basis, _ = np.linalg.qr((np.concatenate([state[name] for name in others]) @ through.T).T)  # (256, 6)
    own = through @ point
    own -= basis @ (basis.T @ own)  # the point's part that no other token has
    own /= np.linalg.norm(own)

    layer = "transformer.layers.1.cross_attn_image_to_token"
    for part in ("q_proj", "k_proj"):  # the point is found by its position, not by what it is
        weight = state[f"{layer}.{part}.weight"]
        weight -= np.outer(weight @ point, point) / (point @ point)
    inner = random.standard_normal(128, np.float32) / np.sqrt(128)
    state[f"{layer}.v_proj.weight"][:] = 6 * np.outer(inner, own)
    state[f"{layer}.v_proj.bias"][:] = 0
    spot = state[f"{layer}.out_proj.weight"] @ inner  # (256,)
    spot /= np.linalg.norm(spot)
    state[f"{layer}.out_proj.bias"][:] = -8 * spot  # where the point has half of the attention, nothing is left

    # Of 64 and 32 upscaled channels the first quarter is the spot; the four pixels that one becomes are nearly alike.
    for name in ("output_upscaling.0", "output_upscaling.3"):
        weight = state[f"{name}.weight"]  # (in, out, 2, 2)
        weight[:] = weight[:, :, :1, :1] + 0.1 * weight
        quarter = weight.shape[1] // 4
        into = spot if name.endswith("0") else np.repeat([2 / 16, 0], [16, 48])
        weight[:, :quarter] = 0.1 * weight[:, :quarter] + 0.5 * into[:, None, None, None]
        state[f"{name}.bias"][:] = 0
    constant = quarter  # a channel that is about 2 everywhere
    weight[:, constant] = 0
    state["output_upscaling.3.bias"][constant] = 2
    for mask in range(MASK_TOKENS):
        kernel = f"output_hypernetworks_mlps.{mask}.layers.2"
        state[f"{kernel}.weight"] *= TEXTURE
        state[f"{kernel}.bias"][:quarter] = SPOT
        state[f"{kernel}.bias"][constant] = -OFFSETS[mask]
