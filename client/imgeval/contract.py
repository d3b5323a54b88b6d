"""The public contract: limits, metrics and tensors, as frozen typed data.

Everything else imports this module and it imports nothing of the project. The export package writes every
`config.pbtxt` from these specs and a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

# --- limits of one request -------------------------------------------------------------------------------------------
MAX_ENCODED_BYTES = 32 * 1024 * 1024  # an encoded image file
MAX_PIXELS = 64_000_000  # a decoded image, width * height, checked before decoding
MIN_SIDE_PX = 8
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")  # Pillow's names
MAX_PROMPT_BYTES = 8 * 1024  # UTF-8; far beyond any text tower, and few enough words to embed each as a keyword


# --- tensors ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Tensor:
    """One tensor of a Triton model. `shape` is per item, without the batch dimension; -1 is any length."""

    name: str
    dtype: str  # Triton's short name: "BYTES", "FP32", "INT64"
    shape: tuple[int, ...] = (1,)


# --- metrics ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Metric:
    """One metric: its name in commands and JSON, and what its raw value means."""

    name: str
    meaning: str


METRICS = (
    Metric("aesthetic", "LAION aesthetic predictor, about 1 to 10"),
    Metric("clip", "cosine of the image and prompt embeddings, -1 to 1"),
    Metric("qalign_quality", "Q-Align technical quality, 1 to 5"),
    Metric("qalign_aesthetic", "Q-Align aesthetics, 1 to 5"),
    Metric("sam_clip", "relevance of the image's segments to the prompt's keywords, 0 to 1"),
    Metric("iqa", "no-reference image quality; range and direction depend on the model"),
)
METRIC_NAMES = tuple(metric.name for metric in METRICS)


def metric_tensor(name: str) -> Tensor:
    """The output tensor of the metric called `name`: its raw value, NaN where unavailable."""
    return Tensor(name.upper(), "FP32")


# --- the ensemble ----------------------------------------------------------------------------------------------------
ENSEMBLE = "imgeval"
MAX_BATCH_SIZE = 8  # items in one request, and in one batch of every composing model
IMAGE = Tensor("IMAGE", "BYTES")  # an encoded image file
PROMPT = Tensor("PROMPT", "BYTES")  # UTF-8 text
SCORE = Tensor("SCORE", "FP32")  # combined score in [0, 1]; NaN where no weighted metric is available
DETAILS_MODEL = "details"  # the step that makes DETAILS; also called alone, with some of the metrics
DETAILS = Tensor("DETAILS", "BYTES")  # JSON, one object; client/imgeval/details.py says what is in it

# What the steps behind DETAILS say, each as an output of its own, so that a request for some of the metrics learns what
# was done to its input and why a value is NaN without paying for the metrics it did not ask for.
INPUT_DETAILS = Tensor("INPUT_DETAILS", "BYTES")  # JSON: what was done to image and prompt
METRIC_DETAILS = {
    "sam_clip": Tensor("SAM_CLIP_DETAILS", "BYTES"),  # JSON: keywords, segments, relevance, or the reason for a NaN
    "iqa": Tensor("IQA_DETAILS", "BYTES"),  # JSON: the reason for a NaN, else {}
}

# --- between the steps -----------------------------------------------------------------------------------------------
# Decoded images of different sizes share a batch as flat rows, zero-padded to the longest; SIZE says how much is used.
RGB = Tensor("RGB", "UINT8", (-1,))  # height * width * 3 samples, row-major
SIZE = Tensor("SIZE", "INT32", (2,))  # height, width
PIXELS = Tensor("PIXELS", "FP32", (3, -1, -1))  # a normalised square; its side is the profile's
INPUT_IDS = Tensor("INPUT_IDS", "INT64", (-1,))  # token ids, zero-padded
EMBEDDING = Tensor("EMBEDDING", "FP32", (-1,))  # L2-normalised; the profile says its length
IMAGE_EMBEDDING = Tensor("IMAGE_EMBEDDING", "FP32", (-1,))
TEXT_EMBEDDING = Tensor("TEXT_EMBEDDING", "FP32", (-1,))


def for_combine(tensor: Tensor) -> Tensor:
    """The same value under the name by which it reaches the steps `combine` and `details`.

    Triton breaks requests for a subset of outputs where one tensor is both an output of the ensemble and the input of
    another of its steps, so such a value is emitted twice.
    """
    return Tensor(f"{tensor.name}_FOR_COMBINE", tensor.dtype, tensor.shape)
