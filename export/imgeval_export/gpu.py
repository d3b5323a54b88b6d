"""`--device gpu`: a profile for NVIDIA's container and one GPU, on the native onnxruntime backend.

    clip_image, sam_encoder     float32: CUDA.  float16, bfloat16: TensorRT, which has a batch as its only free size;
                                in bfloat16 CUDA could not even be asked, since ONNX Runtime's `Pad` lacks it there
    sam_decoder                 CUDA: how many masks it gives depends on the image, and TensorRT would build an engine
                                for every number
    all other ONNX models       CUDA in float32: they are small, and combine belongs where the values are
    sam_clip                    Python: keeps SAM's tensors on the GPU, so it counts as a model of the GPU
    qalign, iqa                 Python, by torch

Parameters are those of triton-inference-server/onnxruntime_backend (README, "Parameter mapping"; `precision_mode` BF16
is in its source alone) and of ONNX Runtime's CUDA and TensorRT providers.

No CUDA graphs in the ONNX models: both providers replay one with the addresses that it was captured with, and Triton
gives every batch other ones. Nothing here was measured: docs and results say so until it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from imgeval.contract import PIXELS
from imgeval.errors import InvalidInputError
from imgeval_export import published
from imgeval_export.configs import Accelerator, Model
from imgeval_export.precision import EXACT, chosen
from imgeval_export.profile import Profile
from imgeval_export.sam import MASK_SCALE, MASKS, UPSCALED, WIDTH
from imgeval_export.sam_decoder import ROWS

PRECISIONS = (EXACT, "fp16", "bf16")
BY_TENSORRT = ("clip_image", "sam_encoder")
MODES = {"fp16": "FP16", "bf16": "BF16"}  # `precision_mode`
PYTHON_MODELS = ("sam_clip", *published.PARTS)

# float32 means float32: the CUDA provider's default, TF32, keeps 11 of its 24 bits in every product.
CUDA = Accelerator("cuda", {"use_tf32": "0"})

# Parent of the engines' folders, in the container. An engine is found by its graph, whatever the weights: so that each
# fingerprint has a folder of its own. TensorRT's provider makes that one, not its parent.
ENGINE_CACHE = "/var/cache/imgeval"
ENGINE_CACHE_PATHS = ("trt_engine_cache_path", "trt_timing_cache_path")
WORKSPACE_BYTES = 4 * 2**30  # for one engine while it is built and runs

TOWER_MAX_BATCH_SIZE = 64
TOWER_PREFERRED_BATCH_SIZES = (32, 64)
TOWER_QUEUE_DELAY_MICROSECONDS = 2_000  # estimated: a batch of 32 at 0.16 TFLOP an image takes 10 ms
QALIGN_QUEUE_DELAY_MICROSECONDS = 5_000  # estimated: a batch of 8 at 3.3 TFLOP an image takes 60 ms

PREPROCESS_INSTANCES = 4  # decoding is the CPU's work
SAM_CLIP_INSTANCES = 4  # some cut and resize crops on the CPU, 50 ms an image, while the GPU computes for another

# What the decoder may take for a batch of points: a fifth of an 80 GB card. `sam_clip.points_per_batch` overrides it.
POINTS_BYTES = 16 * 2**30


def on_gpu(profile: Profile, choices: Sequence[str] = (), instances: int | None = None) -> Profile:
    """The profile with its networks on the GPU; what is no network stays on the CPU.

    Args:
        choices: as `precision.chosen` takes them, of PRECISIONS.
        instances: of the steps on the CPU; a network has one, whose batches fill the GPU.

    Raises:
        InvalidInputError: a profile that has nothing to gain, or a precision that there is not.
    """
    if profile.name not in published.DEFAULT_PARTS:
        raise InvalidInputError("device", f"profile {profile.name} is served on the CPU only")
    precisions = chosen(choices, PRECISIONS)
    settings: dict[str, Any] = {name: dict(each) for name, each in profile.settings.items()}
    settings["sam_clip"]["segments"] = {
        **settings["sam_clip"]["segments"],
        "arrays": "torch",
        "points_per_batch": points_per_batch(POINTS_BYTES),
    }
    models = tuple(_placed(model, precisions.get(model.name, EXACT), instances) for model in profile.models)
    return replace(profile, models=models, settings=settings)


def bytes_per_point(grid: int = published.SAM_GRID) -> int:
    """Memory of the mask decoder for one point, in float32, which its residual sums are in any precision.

    Per cell of the embedding: four tensors of the transformer's width, scores and their softmax for each row of
    tokens; then, where the point has a mask that is wanted, three tensors of each enlargement (4 and 16 pixels) and the
    masks.
    """
    first, second = UPSCALED
    pixels = MASK_SCALE**2
    return 4 * grid**2 * (4 * WIDTH + 2 * ROWS + 3 * 4 * first + 3 * pixels * second + pixels * MASKS)


def points_per_batch(memory_bytes: int) -> int:
    """The largest power of two of points that the decoder has the memory for; 1 at least."""
    return int(1 << max(0, (memory_bytes // bytes_per_point()).bit_length() - 1))


def with_engine_cache(model: Model, fingerprint: str) -> Model:
    """The model with its engines kept in a folder for this fingerprint."""
    folder = f"{ENGINE_CACHE}/{fingerprint}"
    return replace(
        model,
        accelerators=tuple(
            replace(each, parameters={**each.parameters, **dict.fromkeys(ENGINE_CACHE_PATHS, folder)})
            if each.name == "tensorrt"
            else each
            for each in model.accelerators
        ),
    )


def _placed(model: Model, precision: str, instances: int | None) -> Model:
    if model.name == "preprocess":
        return replace(model, instances=instances or PREPROCESS_INSTANCES)
    if model.backend != "onnxruntime" and model.name not in PYTHON_MODELS:
        return model
    model = replace(model, device="gpu", instances=1, precision=precision)
    if model.name == "sam_clip":
        return replace(model, instances=instances or SAM_CLIP_INSTANCES)
    if model.name == "qalign":
        return replace(
            model,
            max_queue_delay_microseconds=QALIGN_QUEUE_DELAY_MICROSECONDS,
            preferred_batch_sizes=(model.max_batch_size,),
        )
    if model.name == "clip_image":
        model = replace(
            model,
            max_batch_size=TOWER_MAX_BATCH_SIZE,
            max_queue_delay_microseconds=TOWER_QUEUE_DELAY_MICROSECONDS,
            preferred_batch_sizes=TOWER_PREFERRED_BATCH_SIZES,
        )
    if model.backend != "onnxruntime":
        return model
    if model.name not in BY_TENSORRT:
        return replace(model, accelerators=(CUDA,))
    # Engines and the memory of the largest batch are there before the first request is.
    warmup = tuple(sorted({1, model.max_batch_size}))
    engine = (_tensorrt(model),) if precision != EXACT else ()
    return replace(model, accelerators=(*engine, CUDA), warmup_batch_sizes=warmup)


def _tensorrt(model: Model) -> Accelerator:
    """TensorRT for a model whose one input is PIXELS, with an engine for every batch up to the largest."""
    (pixels,) = model.inputs
    assert pixels.name == PIXELS.name
    best = model.preferred_batch_sizes[0] if model.preferred_batch_sizes else model.max_batch_size

    def shapes(batch: int) -> str:
        return f"{pixels.name}:{'x'.join(map(str, (batch, *pixels.shape)))}"

    return Accelerator(
        "tensorrt",
        {
            "precision_mode": MODES[model.precision],
            "max_workspace_size_bytes": str(WORKSPACE_BYTES),
            "trt_engine_cache_enable": "1",
            "trt_timing_cache_enable": "1",
            "trt_layer_norm_fp32_fallback": "1",
            "trt_profile_min_shapes": shapes(1),
            "trt_profile_opt_shapes": shapes(best),
            "trt_profile_max_shapes": shapes(model.max_batch_size),
        },
    )
