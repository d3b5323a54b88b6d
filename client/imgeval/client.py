"""The client library: images and prompts to a server, results back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from imgeval import compare, many
from imgeval.compare import COSINE, Matrix, Ranking
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
from imgeval.errors import DeadlineExceededError, ServerFailedError, ServerLostError, ServerUnavailableError
from imgeval.inputs import check_metrics, check_prompt, encode_image, image_label
from imgeval.many import DEFAULT_CONCURRENCY, Outcome
from imgeval.result import SCORE, Result
from imgeval.transport import GrpcTransport, Transport

if TYPE_CHECKING:
    from imgeval.inputs import ImageLike

DEFAULT_URL = "localhost:8001"
DEFAULT_TIMEOUT_S = 60.0


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

    def check_ready(self) -> None:
        """Ask whether the server can be reached and serves the ensemble.

        Raises:
            ServerUnavailableError: it does not, or gave no answer within `timeout_s`.
        """
        self._transport.check_ready(ENSEMBLE, self._timeout_s)

    def score(
        self, image: ImageLike, prompt: str, *, metrics: Sequence[str] | None = None, label: str | None = None
    ) -> Result:
        """Score one image against one prompt.

        Args:
            image: a path, the bytes of an encoded file, a PIL image, an array (H, W, 3), (H, W, 4) or (H, W) uint8, or
                a LazyImage.
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

    def score_many(
        self,
        pairs: Iterable[tuple[ImageLike, str]],
        *,
        metrics: Sequence[str] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        ordered: bool = True,
    ) -> Iterator[Outcome]:
        """Score many pairs; a pair that cannot be scored is an outcome with its error and stops nothing.

        Pairs are read as they are needed, in the caller's thread, and at most 2 x `concurrency` of them are held: read
        and not handed out yet. Files and lazy images are read by the workers; every other image is encoded when its
        pair is read, so that its buffer may be used again. Closing the iterator drops what has not started.

        Args:
            pairs: any iterable of (image, prompt), each as `score` takes it.
            metrics: as for `score`.
            concurrency: how many calls are under way at once, 1 or more.
            ordered: outcomes in the order of the pairs; else as they are completed.

        Raises:
            InvalidInputError: a metric name or a concurrency that is not allowed; at once.
            ServerUnavailableError: no server, found by any pair. What was under way is handed out first, what had not
                started is dropped, and the pairs without an outcome are those that were not scored.
            Exception: whatever `pairs` raises, after the outcomes of what it gave.
        """
        return many.score_many(self, pairs, check_metrics(metrics), concurrency, ordered)

    def rank(
        self, prompt: str, images: Sequence[ImageLike], *, by: str = SCORE, metrics: Sequence[str] | None = None
    ) -> Ranking:
        """Which of several images is the best for a prompt; the best comes first.

        An image that cannot be scored is a row with its error, and comes last. Where `clip` is computed, each row has
        the probability with which CLIP would choose its image (see `Ranked`).

        Args:
            prompt: as for `score`.
            images: one or more, each as for `score`.
            by: "score", or the metric to go by; only that one is computed unless `metrics` says more.
            metrics: as for `score`.

        Raises:
            InvalidInputError: a prompt, `by` or metric name that is not allowed, or no image at all.
            ServerUnavailableError: no server is reachable and ready.
        """
        return compare.rank(self, prompt, images, by, metrics)

    def match(
        self,
        image: ImageLike,
        prompts: Sequence[str],
        *,
        by: str = COSINE,
        metrics: Sequence[str] | None = None,
        label: str | None = None,
    ) -> Ranking:
        """Which of several prompts fits an image; the best comes first, each with its probability (see `Ranked`).

        A prompt that cannot be scored is a row with its error, and comes last.

        Args:
            image: as for `score`.
            prompts: one or more.
            by: the metric to go by, or "score"; only that one is computed unless `metrics` says more.
            metrics: as for `score`.
            label: as for `score`.

        Raises:
            InvalidInputError: an image, `by` or metric name that is not allowed, or no prompt at all.
            ServerUnavailableError: no server is reachable and ready.
        """
        return compare.match(self, image, prompts, by, metrics, label)

    def matrix(
        self, images: Sequence[ImageLike], prompts: Sequence[str], *, metrics: Sequence[str] | None = None
    ) -> Matrix:
        """Every image against every prompt: rows and columns of results, or of the errors that stand for them.

        Raises:
            InvalidInputError: a metric name that is not allowed, no image or no prompt.
            ServerUnavailableError: no server is reachable and ready.
        """
        return compare.matrix(self, images, prompts, metrics)

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
        except ServerLostError:
            raise
        except ServerFailedError as error:
            # A server that is being stopped fails in many ways before its connections end: its models go one by one.
            try:
                self._transport.check_ready(ENSEMBLE, max(0.0, deadline - time.perf_counter()))
            except ServerUnavailableError:
                raise ServerLostError(str(error)) from error
            raise
