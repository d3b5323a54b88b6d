"""What `Client` and `AsyncClient` do, written once: which question follows which, and what the answers mean.

Only `waiting.py` knows whether a thread or an event loop waits meanwhile.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imgeval.contract import (
    DETAILS,
    DETAILS_MODEL,
    ENSEMBLE,
    IMAGE,
    INPUT_DETAILS,
    METRIC_DETAILS,
    METRIC_NAMES,
    PROMPT,
    Tensor,
    for_combine,
    metric_tensor,
)
from imgeval.errors import (
    DeadlineExceededError,
    InvalidInputError,
    ServerFailedError,
    ServerLostError,
    ServerUnavailableError,
)
from imgeval.inputs import check_metrics, check_prompt, encode_image, image_label
from imgeval.result import Result
from imgeval.served import ServedMetrics
from imgeval.transport import Transport
from imgeval.waiting import Waiting

if TYPE_CHECKING:
    from imgeval.explanation import Explanation
    from imgeval.inputs import ImageLike


class Core:
    """One connection and one way to wait for it.

    Args:
        transport: reaches the server.
        timeout_s: deadline of each `score`.
        waiting: `Threads` or `EventLoop`.

    Raises:
        InvalidInputError: a timeout that is not positive.
    """

    def __init__(self, transport: Transport, timeout_s: float, waiting: Waiting) -> None:
        if not timeout_s > 0:
            raise InvalidInputError("timeout_s", f"got {timeout_s}; allowed: more than 0")
        self.transport = transport
        self.waiting = waiting
        self._timeout_s = timeout_s
        self._ready = False  # found so, and no failure since: then the first question is the inference

    async def check_ready(self) -> None:
        """`Client.check_ready`, which says what it does."""
        await self.waiting.check_ready(self.transport, ENSEMBLE, self._timeout_s)
        self._ready = True

    async def score(
        self, image: ImageLike, prompt: str, metrics: Sequence[str] | None = None, label: str | None = None
    ) -> Result:
        """`Client.score`, which says what it does."""
        start = time.perf_counter()
        wanted = check_metrics(metrics)
        # Bytes are only counted: no thread needs to be woken for it.
        encoded = encode_image(image) if isinstance(image, bytes) else await self.waiting.work(encode_image, image)
        text = check_prompt(prompt)
        deadline = start + self._timeout_s
        if not self._ready:
            await self.check_ready()
        connected = time.perf_counter()
        details = await self._details({IMAGE: encoded, PROMPT: text}, wanted, deadline)
        end = time.perf_counter()
        timing_ms = {
            "connect": (connected - start) * 1e3,
            "server": (end - connected) * 1e3,
            "total": (end - start) * 1e3,
        }
        try:
            return Result.from_details(details, label or image_label(image), prompt, timing_ms)
        except (AttributeError, KeyError, TypeError) as error:
            url = self.transport.url
            raise ServerFailedError(f"the server at {url} gave details of another shape: {error!r}") from error

    async def explain(
        self, image: ImageLike, prompt: str, metrics: Sequence[str] | None = None, label: str | None = None
    ) -> Explanation:
        """`Client.explain`, which says what it does."""
        from imgeval.explanation import Explanation  # Pillow: whoever only scores files does without
        from imgeval.image import decode

        encoded = await self.waiting.work(encode_image, image)
        result = await self.score(encoded, prompt, metrics, label or image_label(image))
        decoded = await self.waiting.work(decode, encoded)
        try:
            return await self.waiting.work(Explanation.of, result, decoded.rgb)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            problem = f"the server at {self.transport.url} gave segments that cannot be read: {error!r}"
            raise ServerFailedError(problem) from error

    async def metrics(self) -> ServedMetrics:
        """`Client.metrics`, which says what it does."""
        await self.check_ready()
        config = await self.waiting.work(self.transport.model_config, ENSEMBLE, self._timeout_s)
        return ServedMetrics.from_config(config, self.transport.url)

    async def _details(self, request: dict[Tensor, bytes], metrics: tuple[str, ...], deadline: float) -> dict[str, Any]:
        inputs = {tensor.name: np.array([[value]], dtype=np.object_) for tensor, value in request.items()}
        if metrics == METRIC_NAMES:
            answer = await self._infer(ENSEMBLE, inputs, (DETAILS,), deadline)
        else:
            # The values asked for, and nothing else is computed; then the server's own last step on those alone.
            tensors = [INPUT_DETAILS, *map(metric_tensor, metrics)]
            tensors += [METRIC_DETAILS[name] for name in metrics if name in METRIC_DETAILS]
            values = await self._infer(ENSEMBLE, inputs, tensors, deadline)
            inputs = {for_combine(tensor).name: values[tensor.name] for tensor in tensors}
            answer = await self._infer(DETAILS_MODEL, inputs, (DETAILS,), deadline)
        try:
            details: dict[str, Any] = json.loads(answer[DETAILS.name].item())
        except ValueError as error:
            url = self.transport.url
            raise ServerFailedError(f"the server at {url} gave details that are not JSON: {error}") from error
        return details

    async def _infer(
        self, model: str, inputs: dict[str, NDArray[Any]], outputs: Sequence[Tensor], deadline: float
    ) -> dict[str, NDArray[Any]]:
        left_s = deadline - time.perf_counter()
        url = self.transport.url
        late = DeadlineExceededError(f"the server at {url} gave no answer within {self._timeout_s:g} s")
        if left_s <= 0:
            raise late
        names = tuple(tensor.name for tensor in outputs)
        try:
            return await self.waiting.infer(self.transport, model, inputs, names, left_s)
        except DeadlineExceededError as error:
            self._ready = False
            raise late from error.__cause__
        except (ServerLostError, ServerUnavailableError):
            self._ready = False
            raise
        except ServerFailedError as error:
            self._ready = False
            # A server that is being stopped fails in many ways before its connections end: its models go one by one.
            try:
                await self.waiting.check_ready(self.transport, ENSEMBLE, max(0.0, deadline - time.perf_counter()))
            except ServerUnavailableError:
                raise ServerLostError(str(error)) from error
            raise
