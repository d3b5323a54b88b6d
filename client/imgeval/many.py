"""Many pairs through one client: bounded, in order or as completed, and no bad pair stops the others.

pairs --read where the caller is, at most 2 x concurrency ahead--> workers --> outcomes
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from imgeval.errors import ImgevalError, InvalidInputError, ServerUnavailableError
from imgeval.inputs import LazyImage, encode_image, image_label, prompt_label

if TYPE_CHECKING:
    from imgeval.core import Core
    from imgeval.result import Result
    from imgeval.waiting import Waiting

DEFAULT_CONCURRENCY = 8  # calls under way at once
READ_AHEAD = 2  # pairs read and not yet handed out, for each of these calls: what lets a slow one not stop the others


@dataclass(frozen=True)
class Outcome:
    """What became of one pair: either `result` or `error` is there.

    `index` counts the pairs from 0, in the order in which they were read; `image` is the image's label.
    """

    index: int
    image: str
    prompt: str
    result: Result | None
    error: ImgevalError | None


@dataclass(frozen=True)
class Task:
    """One pair, ready for a worker: `call` scores it, or raises an ImgevalError."""

    image: str
    prompt: str
    call: Callable[[], Coroutine[Any, Any, Result]]


def score_many(
    core: Core,
    pairs: Iterable[tuple[Any, str]] | AsyncIterable[tuple[Any, str]],
    metrics: tuple[str, ...],
    concurrency: int,
    ordered: bool,
) -> AsyncGenerator[Outcome, None]:
    """`Client.score_many`, which says what it does.

    Raises:
        InvalidInputError: a `concurrency` below 1.
    """
    if concurrency < 1:
        raise InvalidInputError("concurrency", f"got {concurrency}; allowed: 1 or more")
    return outcomes(core.waiting, _tasks(core, pairs, metrics), concurrency=concurrency, ordered=ordered)


async def outcomes(
    waiting: Waiting,
    tasks: AsyncGenerator[Task, None],
    *,
    concurrency: int = DEFAULT_CONCURRENCY,
    ordered: bool = True,
) -> AsyncGenerator[Outcome, None]:
    """Run tasks, at most `concurrency` at once and `READ_AHEAD` times as many read and not handed out.

    Raises, after the outcomes of all that was under way were handed out:
        ServerUnavailableError: a task found no server; those that had not started by then are dropped.
        Exception: whatever reading `tasks` raised.
    """
    count = 0
    pending: dict[Future[Result], tuple[int, Task]] = {}  # in input order, as dicts keep theirs
    more, failure = True, None
    workers = waiting.workers(concurrency)
    try:
        while more or pending:
            if more and len(pending) < READ_AHEAD * concurrency:
                try:
                    task = await anext(tasks)
                    pending[workers.submit(task.call)] = count, task
                    count += 1
                except StopAsyncIteration:
                    more = False
                except Exception as error:  # noqa: BLE001 - the caller's own, raised again below
                    more, failure = False, error
            elif pending:
                await workers.wait([next(iter(pending))] if ordered else list(pending))
            # One is read, then one is handed out: a slow reader delays no outcome by more than one pair.
            done = _next_done(pending, ordered)
            if done is None:
                continue
            index, task = pending.pop(done)
            try:
                outcome = Outcome(index, task.image, task.prompt, done.result(), None)
            except ServerUnavailableError as error:
                more, failure = False, failure or error
                for future in [future for future in pending if future.cancel()]:
                    del pending[future]
                continue
            except ImgevalError as error:
                outcome = Outcome(index, task.image, task.prompt, None, error)
            yield outcome
    finally:
        await workers.close()
        await tasks.aclose()
    if failure is not None:
        raise failure


def _next_done(pending: Iterable[Future[Result]], ordered: bool) -> Future[Result] | None:
    """A call that has ended; where the order is kept, only the first one counts."""
    for future in pending:
        if future.done():
            return future
        if ordered:
            return None
    return None


async def _tasks(
    core: Core, pairs: Iterable[tuple[Any, str]] | AsyncIterable[tuple[Any, str]], metrics: tuple[str, ...]
) -> AsyncGenerator[Task, None]:
    async for pair in core.waiting.values(pairs):
        yield await _task(core, pair, metrics)


async def _task(core: Core, pair: tuple[Any, str], metrics: tuple[str, ...]) -> Task:
    """What scores one pair. Files and lazy images are left to the workers: every other may change after this."""
    try:
        image, prompt = pair
    except (TypeError, ValueError):
        problem = f"got {type(pair).__name__}; allowed: (image, prompt)"
        return refused(InvalidInputError("pair", problem), f"<{type(pair).__name__}>", "")
    label, text = image_label(image), prompt_label(prompt)
    if isinstance(image, LazyImage):
        return Task(label, text, partial(_score_lazy, core, image, prompt, metrics))
    if not isinstance(image, (str, os.PathLike)):
        try:
            image = await core.waiting.work(encode_image, image)
        except InvalidInputError as error:
            return refused(error, label, text)
    return Task(label, text, partial(core.score, image, prompt, metrics, label))


async def _score_lazy(core: Core, image: LazyImage, prompt: str, metrics: tuple[str, ...]) -> Result:
    """Read before it is scored: the deadline is for the server, and not for the place that the image comes from."""
    encoded = await core.waiting.work(encode_image, image)
    return await core.score(encoded, prompt, metrics, image_label(image))


def refused(error: ImgevalError, image: str, prompt: str) -> Task:
    """A task that fails: a pair that cannot be scored takes its turn like the others."""

    async def fail() -> Result:
        raise error

    return Task(image, prompt, fail)
