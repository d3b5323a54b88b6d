"""What a SAM checkpoint holds (Kirillov et al. 2023, arXiv 2304.02643): names, shapes, and the sizes of its parts.

The names are those of segment_anything/modeling/*.py and of the published `sam_vit_{b,l,h}_*.pth`. All three models
share the prompt encoder and the mask decoder; their image encoders differ, and every size of an encoder follows from
the shapes of its tensors, even which blocks attend globally: their tables of relative positions are longer.
"""

from __future__ import annotations

from dataclasses import dataclass

from imgeval.errors import BuildError
from imgeval_export.state import State, check_state

PATCH = 16  # pixels of the input per side of a cell of the embedding
WIDTH = 256  # channels of the image embedding and of the decoder's tokens
MASKS = 3  # per point: whole, part, subpart. A fourth mask token serves prompts of several points
MASK_TOKENS = MASKS + 1
MASK_SCALE = 4  # pixels of a low-resolution mask per side of a cell of the embedding

# The mask decoder (build_sam.py)
DECODER_LAYERS = 2
DECODER_HEADS = 8
DECODER_INNER = WIDTH // 2  # channels of queries, keys and values between tokens and image
DECODER_FEED_FORWARD = 2048
UPSCALED = (WIDTH // 4, WIDTH // 8)  # channels after each doubling of the resolution

ENCODER_MLP_RATIO = 4
ENCODER_EPSILON = 1e-6  # of every layer norm in the encoder, and of LayerNorm2d in the decoder
DECODER_EPSILON = 1e-5


@dataclass(frozen=True)
class SamSizes:
    """Sizes of an image encoder (build_sam.py).

    Attributes:
        width: channels of a token.
        heads: attention heads.
        depth: blocks.
        grid: tokens per side; the input has PATCH * grid pixels a side.
        window: tokens per side of a window, in the blocks that do not attend globally.
        global_blocks: indexes of those that do.
    """

    width: int
    heads: int
    depth: int
    global_blocks: tuple[int, ...]
    grid: int = 64
    window: int = 14

    @property
    def image_size_px(self) -> int:
        """Side of the square that the encoder takes."""
        return PATCH * self.grid

    def attended(self, block: int) -> int:
        """Tokens per side that `block` attends over."""
        return self.grid if block in self.global_blocks else self.window


VIT_B = SamSizes(width=768, heads=12, depth=12, global_blocks=(2, 5, 8, 11))
VIT_L = SamSizes(width=1024, heads=16, depth=24, global_blocks=(5, 11, 17, 23))
VIT_H = SamSizes(width=1280, heads=16, depth=32, global_blocks=(7, 15, 23, 31))


def sam_sizes(state: State) -> SamSizes:
    """Sizes of the encoder in `state`, after a check that every tensor of a SAM is there and fits.

    Raises:
        BuildError: `state` is not the state dict of a SAM; the message names the tensors.
    """
    sizes = _infer(state)
    check_state("SAM", state, expected_shapes(sizes))
    return sizes


def _infer(state: State) -> SamSizes:
    """What the shapes say, unchecked."""
    depth = 0
    while f"image_encoder.blocks.{depth}.attn.rel_pos_h" in state:
        depth += 1
    tables = [state[f"image_encoder.blocks.{block}.attn.rel_pos_h"] for block in range(depth)]  # (2 attended - 1, c)
    position = state.get("image_encoder.pos_embed")  # (1, grid, grid, width)
    if position is None or position.ndim != 4 or not tables or any(t.ndim != 2 or 0 in t.shape for t in tables):
        raise BuildError("these are not the weights of SAM; image_encoder.pos_embed or attn.rel_pos_h do not fit it")
    grid, width = position.shape[1], position.shape[3]
    attended = [(len(table) + 1) // 2 for table in tables]
    windows = [side for side in attended if side != grid]
    return SamSizes(
        width=width,
        heads=width // tables[0].shape[1],
        depth=depth,
        global_blocks=tuple(block for block, side in enumerate(attended) if side == grid),
        grid=grid,
        window=windows[0] if windows else grid,
    )


def expected_shapes(sizes: SamSizes) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a SAM of these sizes."""
    return {
        **{f"image_encoder.{name}": shape for name, shape in _encoder_shapes(sizes).items()},
        **{f"prompt_encoder.{name}": shape for name, shape in _prompt_encoder_shapes().items()},
        **{f"mask_decoder.{name}": shape for name, shape in _decoder_shapes().items()},
    }


def _encoder_shapes(sizes: SamSizes) -> dict[str, tuple[int, ...]]:
    width, grid = sizes.width, sizes.grid
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, grid, grid, width),
        **_layer("patch_embed.proj", width, 3, PATCH, PATCH),
    }
    for block in range(sizes.depth):
        prefix, table = f"blocks.{block}", (2 * sizes.attended(block) - 1, width // sizes.heads)
        shapes |= _norm(f"{prefix}.norm1", width)
        shapes |= {f"{prefix}.attn.rel_pos_h": table, f"{prefix}.attn.rel_pos_w": table}
        shapes |= _layer(f"{prefix}.attn.qkv", 3 * width, width)
        shapes |= _layer(f"{prefix}.attn.proj", width, width)
        shapes |= _norm(f"{prefix}.norm2", width)
        shapes |= _layer(f"{prefix}.mlp.lin1", ENCODER_MLP_RATIO * width, width)
        shapes |= _layer(f"{prefix}.mlp.lin2", width, ENCODER_MLP_RATIO * width)
    shapes |= {"neck.0.weight": (WIDTH, width, 1, 1), **_norm("neck.1", WIDTH)}
    return shapes | {"neck.2.weight": (WIDTH, WIDTH, 3, 3), **_norm("neck.3", WIDTH)}


def _prompt_encoder_shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"pe_layer.positional_encoding_gaussian_matrix": (2, WIDTH // 2)}
    for index in range(4):  # background and foreground point, and the two corners of a box
        shapes[f"point_embeddings.{index}.weight"] = (1, WIDTH)
    shapes["not_a_point_embed.weight"] = (1, WIDTH)
    shapes |= {**_layer("mask_downscaling.0", 4, 1, 2, 2), **_norm("mask_downscaling.1", 4)}
    shapes |= {**_layer("mask_downscaling.3", 16, 4, 2, 2), **_norm("mask_downscaling.4", 16)}
    shapes |= _layer("mask_downscaling.6", WIDTH, 16, 1, 1)
    return shapes | {"no_mask_embed.weight": (1, WIDTH)}


def _decoder_shapes() -> dict[str, tuple[int, ...]]:
    def attention(prefix: str, inner: int) -> dict[str, tuple[int, ...]]:
        shapes: dict[str, tuple[int, ...]] = {}
        for part in ("q_proj", "k_proj", "v_proj"):
            shapes |= _layer(f"{prefix}.{part}", inner, WIDTH)
        return shapes | _layer(f"{prefix}.out_proj", WIDTH, inner)

    shapes: dict[str, tuple[int, ...]] = {}
    for index in range(DECODER_LAYERS):
        prefix = f"transformer.layers.{index}"
        shapes |= {**attention(f"{prefix}.self_attn", WIDTH), **_norm(f"{prefix}.norm1", WIDTH)}
        shapes |= {**attention(f"{prefix}.cross_attn_token_to_image", DECODER_INNER), **_norm(f"{prefix}.norm2", WIDTH)}
        shapes |= _layer(f"{prefix}.mlp.lin1", DECODER_FEED_FORWARD, WIDTH)
        shapes |= _layer(f"{prefix}.mlp.lin2", WIDTH, DECODER_FEED_FORWARD)
        shapes |= {**_norm(f"{prefix}.norm3", WIDTH), **_norm(f"{prefix}.norm4", WIDTH)}
        shapes |= attention(f"{prefix}.cross_attn_image_to_token", DECODER_INNER)
    shapes |= attention("transformer.final_attn_token_to_image", DECODER_INNER)
    shapes |= _norm("transformer.norm_final_attn", WIDTH)
    shapes |= {"iou_token.weight": (1, WIDTH), "mask_tokens.weight": (MASK_TOKENS, WIDTH)}
    middle, last = UPSCALED
    shapes |= {"output_upscaling.0.weight": (WIDTH, middle, 2, 2), "output_upscaling.0.bias": (middle,)}
    shapes |= _norm("output_upscaling.1", middle)
    shapes |= {"output_upscaling.3.weight": (middle, last, 2, 2), "output_upscaling.3.bias": (last,)}
    heads = {f"output_hypernetworks_mlps.{mask}": last for mask in range(MASK_TOKENS)}
    for head, out in {**heads, "iou_prediction_head": MASK_TOKENS}.items():
        for index, rows in enumerate((WIDTH, WIDTH, out)):
            shapes |= _layer(f"{head}.layers.{index}", rows, WIDTH)
    return shapes


def _layer(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return _layer(name, width)
