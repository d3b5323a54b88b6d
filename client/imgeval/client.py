"""The client library: images and prompts to a server, results back."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imgeval.contract import (
    DETAILS,
    DETAILS_MODEL,
    ENSEMBLE,
    IMAGE,
    INPUT_DETAILS,
    MAX_ENCODED_BYTES,
    METRIC_DETAILS,
    METRIC_NAMES,
    PROMPT,
    Tensor,
    for_combine,
    metric_tensor,
)
from imgeval.errors import DeadlineExceededError, InvalidInputError, ServerFailedError
from imgeval.result import Result
from imgeval.text import decode_prompt
from imgeval.transport import GrpcTransport, Transport

if TYPE_CHECKING:
    from PIL import Image

    ImageLike = str | os.PathLike[str] | bytes | Image.Image | NDArray[np.uint8]

DEFAULT_URL = "localhost:8001"
DEFAULT_TIMEOUT_S = 60.0
TIFF_MODES = ("CMYK", "YCbCr", "LAB")  # PIL modes that PNG cannot hold and TIFF can


class Client:
    """A connection to one server. Safe to share between threads.

    Args:
        url: HOST:PORT of the server's gRPC address.
        timeout_s: deadline of each call.
        transport: another way to reach a server, instead of gRPC to `url`.
    """

    def __init__(
        self, url: str = DEFAULT_URL, *, timeout_s: float = DEFAULT_TIMEOUT_S, transport: Transport | None = None
    ) -> None:
        self._transport = transport if transport is not None else GrpcTransport(url)
        self._timeout_s = timeout_s

    @property
    def url(self) -> str:
        return self._transport.url

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back."""
        self._transport.close()

    def score(
        self, image: ImageLike, prompt: str, *, metrics: Sequence[str] | None = None, label: str | None = None
    ) -> Result:
        """Score one image against one prompt.

        Args:
            image: a path, the bytes of an encoded file, a PIL image, or an array (H, W, 3), (H, W, 4) or (H, W) uint8.
            prompt: text that is not blank.
            metrics: names of the metrics to compute, the others cost nothing; by default all.
            label: what the result calls the image; by default its path, or its kind where it has none.

        Raises:
            InvalidInputError: an image, prompt or metric name that cannot be scored.
            ServerUnavailableError: no server is reachable and ready.
            DeadlineExceededError: no answer within `timeout_s`, all calls together.
            ServerFailedError: the server failed on this request.
        """
        start = time.perf_counter()
        wanted = check_metrics(metrics)
        encoded = encode_image(image)
        text = check_prompt(prompt)
        deadline = start + self._timeout_s
        self._transport.check_ready(ENSEMBLE, self._timeout_s)
        connected = time.perf_counter()
        details = self._details({IMAGE: encoded, PROMPT: text}, wanted, deadline)
        end = time.perf_counter()
        timing_ms = {
            "connect": (connected - start) * 1e3,
            "server": (end - connected) * 1e3,
            "total": (end - start) * 1e3,
        }
        try:
            return Result.from_details(details, label or image_label(image), prompt, timing_ms)
        except (AttributeError, KeyError, TypeError) as error:
            raise ServerFailedError(f"the server at {self.url} gave details of another shape: {error!r}") from error

    def _details(self, request: dict[Tensor, bytes], metrics: tuple[str, ...], deadline: float) -> dict[str, Any]:
        inputs = {tensor.name: np.array([[value]], dtype=np.object_) for tensor, value in request.items()}
        if metrics == METRIC_NAMES:
            answer = self._infer(ENSEMBLE, inputs, [DETAILS.name], deadline)
        else:
            # The values asked for, and nothing else is computed; then the server's own last step on those alone.
            tensors = [INPUT_DETAILS, *map(metric_tensor, metrics)]
            tensors += [METRIC_DETAILS[name] for name in metrics if name in METRIC_DETAILS]
            values = self._infer(ENSEMBLE, inputs, [tensor.name for tensor in tensors], deadline)
            inputs = {for_combine(tensor).name: values[tensor.name] for tensor in tensors}
            answer = self._infer(DETAILS_MODEL, inputs, [DETAILS.name], deadline)
        try:
            details: dict[str, Any] = json.loads(answer[DETAILS.name].item())
        except ValueError as error:
            raise ServerFailedError(f"the server at {self.url} gave details that are not JSON: {error}") from error
        return details

    def _infer(
        self, model: str, inputs: dict[str, NDArray[Any]], outputs: Sequence[str], deadline: float
    ) -> dict[str, NDArray[Any]]:
        left_s = deadline - time.perf_counter()
        late = DeadlineExceededError(f"the server at {self.url} gave no answer within {self._timeout_s:g} s")
        if left_s <= 0:
            raise late
        try:
            return self._transport.infer(model, inputs, outputs, left_s)
        except DeadlineExceededError as error:
            raise late from error


def check_metrics(metrics: Sequence[str] | None) -> tuple[str, ...]:
    """The metrics to compute, in the contract's order.

    Raises:
        InvalidInputError: an unknown name, or none at all.
    """
    if metrics is None:
        return METRIC_NAMES
    unknown = [name for name in metrics if name not in METRIC_NAMES]
    if unknown or not metrics:
        got = ", ".join(unknown) or "none"
        raise InvalidInputError("metrics", f"got {got}; allowed: {', '.join(METRIC_NAMES)}")
    return tuple(name for name in METRIC_NAMES if name in metrics)


def check_prompt(prompt: str) -> bytes:
    """The prompt as the server takes it, checked by the server's own rule.

    Raises:
        InvalidInputError: blank, too long, or with bytes that were no UTF-8 on the command line.
    """
    try:
        encoded = prompt.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInputError("PROMPT", f"got text that is not UTF-8 at character {error.start}") from error
    decode_prompt(encoded)
    return encoded


def encode_image(image: ImageLike) -> bytes:
    """The bytes of an image file; PIL images and arrays become PNG or TIFF, which keep every sample.

    Raises:
        InvalidInputError: a file that is missing, unreadable, empty or too large, or an array of another shape or type.
    """
    if isinstance(image, (str, os.PathLike)):
        return _read(Path(image))
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _checked(bytes(image), "the bytes given")
    from PIL import Image

    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] in (3, 4))):
            raise InvalidInputError(
                "IMAGE", f"got an array of {image.dtype} {image.shape}; allowed: uint8 (H, W), (H, W, 3) or (H, W, 4)"
            )
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise InvalidInputError("IMAGE", f"got {type(image).__name__}; allowed: path, bytes, PIL image or array")
    file = io.BytesIO()
    file_format = "TIFF" if image.mode in TIFF_MODES else "PNG"
    try:
        # With its EXIF, so that the server turns it as it would turn the file that it came from.
        image.save(file, file_format, exif=image.getexif(), **({"compress_level": 1} if file_format == "PNG" else {}))
    except (OSError, ValueError, SyntaxError) as error:
        raise InvalidInputError(
            "IMAGE", f"got a PIL image of mode {image.mode} that cannot be sent: {error}"
        ) from error
    return _checked(file.getvalue(), f"the image as {file_format}")


def image_label(image: ImageLike) -> str:
    """What a result calls this image: its path, or its kind where it has none."""
    if not isinstance(image, (str, os.PathLike)):
        return f"<{type(image).__name__}>"
    return os.fsencode(image).decode("utf-8", "replace")  # a file name may be any bytes, and JSON is UTF-8


def _read(path: Path) -> bytes:
    try:
        if path.is_dir():
            raise InvalidInputError("IMAGE", f"{path} is a directory; allowed: an image file")
        with path.open("rb") as file:
            content = file.read(MAX_ENCODED_BYTES + 1)  # not its size first: a pipe has none
            size = max(len(content), os.fstat(file.fileno()).st_size)
    except FileNotFoundError as error:
        raise InvalidInputError("IMAGE", f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise InvalidInputError("IMAGE", f"{path} cannot be read: {error}") from error
    return _checked(content, str(path), size)


def _checked(content: bytes, label: str, size: int | None = None) -> bytes:
    if not content:
        raise InvalidInputError("IMAGE", f"{label} is empty; allowed: an image file")
    if len(content) > MAX_ENCODED_BYTES:
        got = len(content) if size is None else size
        raise InvalidInputError("IMAGE", f"{label} has {got} bytes; allowed: at most {MAX_ENCODED_BYTES}")
    return content
