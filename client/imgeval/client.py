"""The client library: images and prompts to a server, results back.

`Client` waits in threads and `AsyncClient` in asyncio; both only name what `core.py`, `many.py` and `compare.py` do.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from imgeval import compare, many
from imgeval.compare import COSINE, Matrix, Ranking
from imgeval.connection import DEFAULT_TIMEOUT_S, Connection
from imgeval.core import Core
from imgeval.inputs import check_metrics
from imgeval.many import DEFAULT_CONCURRENCY, Outcome
from imgeval.result import SCORE, Result
from imgeval.served import ServedMetrics
from imgeval.transport import GrpcTransport, Transport
from imgeval.waiting import EventLoop, Threads, Waiting, iterate, run

if TYPE_CHECKING:
    from imgeval.explanation import Explanation
    from imgeval.inputs import ImageLike

DEFAULT_URL = "localhost:8001"


class _AnyClient:
    """What both clients are made of."""

    _waiting: type[Waiting]

    def __init__(
        self,
        url: str | Sequence[str] | Connection = DEFAULT_URL,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        transport: Transport | None = None,
    ) -> None:
        self._transport = transport if transport is not None else GrpcTransport(url)
        self._core = Core(self._transport, timeout_s, self._waiting())

    @property
    def url(self) -> str:
        return self._transport.url

    @property
    def transport(self) -> Transport:
        """The connection, for what this class has no method for."""
        return self._transport


class Client(_AnyClient):
    """A connection to one server, or to several that serve the same. Safe to share between threads.

    Args:
        url: HOST:PORT of the server's gRPC address, several of them, or a `Connection` with options.
        timeout_s: deadline of each call, with all attempts.
        transport: another way to reach a server, instead of gRPC to `url`.

    Raises:
        InvalidInputError: an address or option that is not allowed.
    """

    _waiting = Threads

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connection back. Calls under way in other threads end, on the server too, with an error here."""
        self._transport.close()

    def check_ready(self) -> None:
        """Ask whether the server can be reached and serves the ensemble.

        Raises:
            ServerUnavailableError: it does not, or gave no answer within `timeout_s`.
        """
        run(self._core.check_ready())

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
        return run(self._core.score(image, prompt, metrics, label))

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
        return iterate(many.score_many(self._core, pairs, check_metrics(metrics), concurrency, ordered))

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
        return run(compare.rank(self._core, prompt, images, by, metrics))

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
        return run(compare.match(self._core, image, prompts, by, metrics, label))

    def matrix(
        self, images: Sequence[ImageLike], prompts: Sequence[str], *, metrics: Sequence[str] | None = None
    ) -> Matrix:
        """Every image against every prompt: rows and columns of results, or of the errors that stand for them.

        Raises:
            InvalidInputError: a metric name that is not allowed, no image or no prompt.
            ServerUnavailableError: no server is reachable and ready.
        """
        return run(compare.matrix(self._core, images, prompts, metrics))

    def explain(
        self, image: ImageLike, prompt: str, *, metrics: Sequence[str] | None = None, label: str | None = None
    ) -> Explanation:
        """Score one pair and say why: segments, their relevance to the keywords, contributions of the metrics.

        Args and errors are those of `score`. Without `sam_clip` among `metrics` there are no segments.
        """
        return run(self._core.explain(image, prompt, metrics, label))

    def metrics(self) -> ServedMetrics:
        """What the server serves: models, ranges, direction, licences, citations, and how to get what is missing.

        Raises:
            ServerUnavailableError: no server is reachable and ready.
            ServerFailedError: the server does not tell, because its repository was built by an older version.
        """
        return run(self._core.metrics())


class AsyncClient(_AnyClient):
    """`Client` for asyncio: the same arguments, methods and errors, to be awaited.

    Cancelling a task that waits for a method ends its calls, on the server too. Files are read and images encoded in
    threads, so that the event loop goes on; gRPC holds it up while it takes a large image, 10 MB for about 40 ms; a
    connection with `shared_memory` for 6 to 10 ms, and for as long as the server needs to map a new region.
    """

    _waiting = EventLoop

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """As `Client.close`."""
        await asyncio.to_thread(self._transport.close)

    async def check_ready(self) -> None:
        """As `Client.check_ready`."""
        await self._core.check_ready()

    async def score(
        self, image: ImageLike, prompt: str, *, metrics: Sequence[str] | None = None, label: str | None = None
    ) -> Result:
        """As `Client.score`."""
        return await self._core.score(image, prompt, metrics, label)

    def score_many(
        self,
        pairs: Iterable[tuple[ImageLike, str]] | AsyncIterable[tuple[ImageLike, str]],
        *,
        metrics: Sequence[str] | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        ordered: bool = True,
    ) -> AsyncGenerator[Outcome, None]:
        """As `Client.score_many`, for `async for`. `pairs` may be asynchronous; if not, reading it holds the loop up.

        Closing the generator (`contextlib.aclosing`) also ends the calls that are under way.
        """
        return many.score_many(self._core, pairs, check_metrics(metrics), concurrency, ordered)

    async def rank(
        self, prompt: str, images: Sequence[ImageLike], *, by: str = SCORE, metrics: Sequence[str] | None = None
    ) -> Ranking:
        """As `Client.rank`."""
        return await compare.rank(self._core, prompt, images, by, metrics)

    async def match(
        self,
        image: ImageLike,
        prompts: Sequence[str],
        *,
        by: str = COSINE,
        metrics: Sequence[str] | None = None,
        label: str | None = None,
    ) -> Ranking:
        """As `Client.match`."""
        return await compare.match(self._core, image, prompts, by, metrics, label)

    async def matrix(
        self, images: Sequence[ImageLike], prompts: Sequence[str], *, metrics: Sequence[str] | None = None
    ) -> Matrix:
        """As `Client.matrix`."""
        return await compare.matrix(self._core, images, prompts, metrics)

    async def explain(
        self, image: ImageLike, prompt: str, *, metrics: Sequence[str] | None = None, label: str | None = None
    ) -> Explanation:
        """As `Client.explain`."""
        return await self._core.explain(image, prompt, metrics, label)

    async def metrics(self) -> ServedMetrics:
        """As `Client.metrics`."""
        return await self._core.metrics()
