"""Scoring over outages of the server: it is waited for, and what was under way is scored again."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

from imgeval.errors import ServerLostError, ServerUnavailableError
from imgeval.many import Outcome
from imgeval.runs import Row
from imgeval.sources import Item

if TYPE_CHECKING:
    from imgeval.client import Client

WAIT_SERVER_S = 60.0
MAX_ATTEMPTS = 3  # for a row with which the server is lost each time: it may be what kills the server
FIRST_DELAY_S, LAST_DELAY_S = 0.2, 5.0  # between two looks for a server that is gone; each is twice the one before

ToDo = Iterator[tuple[int, Item]]  # with the number of its row


class Outages:
    """Waits for a server that is gone, and says so by `note`."""

    def __init__(self, client: Client, wait_s: float, note: Callable[[str], None]) -> None:
        self._client, self._wait_s, self._note = client, wait_s, note
        self._gone_since: float | None = None

    def over(self) -> None:
        """A row was made: the next outage is a new one."""
        self._gone_since = None

    def wait(self, error: ServerLostError | ServerUnavailableError) -> None:
        """Return when the server is there.

        Raises:
            ServerUnavailableError: it is not, for `wait_s` since the last row was made.
        """
        if self._gone_since is None:
            self._gone_since = time.monotonic()
            self._note(f"{error}; waiting up to {self._wait_s:g} s for it")
        delay_s = FIRST_DELAY_S
        while (left_s := self._gone_since + self._wait_s - time.monotonic()) > 0:
            time.sleep(min(delay_s, left_s))
            delay_s = min(2 * delay_s, LAST_DELAY_S)
            try:
                self._client.check_ready()
            except ServerUnavailableError:
                continue
            return
        raise ServerUnavailableError(f"{error} (waited {self._wait_s:g} s)") from error


def scored_rows(
    client: Client, todo: ToDo, metrics: tuple[str, ...], concurrency: int, outages: Outages
) -> Iterator[Row]:
    """A row for each item, in order, over outages of the server.

    When the server is lost, whatever was under way is scored again one by one: where one row kills the server, it
    alone runs out of attempts.

    Raises:
        ServerUnavailableError: as `Outages.wait`. What has no row then is scored when the run goes on.
    """
    waiting: deque[tuple[int, Item]] = deque()  # read, and without a row yet
    suspects = 0  # how many of these were, or may have been, under way when the server was lost
    attempts = 0  # that the first of these has behind it
    broken: list[Exception] = []  # what reading `todo` raised: it gives nothing more, and that is not its end

    def pairs(count: int | None) -> Iterator[tuple[Any, str]]:
        for _, item in list(waiting)[:count]:
            yield item.image, item.prompt
        while count is None and not broken:
            try:
                found = next(todo, None)
            except Exception as error:  # noqa: BLE001 - raised again behind the rows that were read before
                broken.append(error)
                return
            if found is None:
                return
            waiting.append(found)
            yield found[1].image, found[1].prompt

    while True:
        one_by_one, position = suspects > 0, 0
        lost: ServerLostError | ServerUnavailableError | None = None
        outcomes = client.score_many(
            pairs(suspects if one_by_one else None),
            metrics=metrics,
            concurrency=1 if one_by_one else concurrency,
        )
        try:
            with closing(cast("Generator[Outcome]", outcomes)):
                for outcome in outcomes:
                    if outcome.index != position:
                        continue  # one before it found no server, which is raised in a moment
                    if isinstance(outcome.error, ServerLostError) and attempts + 1 < MAX_ATTEMPTS:
                        attempts, suspects, lost = attempts + 1, len(waiting), outcome.error
                        break
                    suspects, position = max(0, suspects - 1), position + 1
                    attempts = 1 if suspects else 0
                    outages.over()
                    yield Row.from_outcome(outcome, waiting.popleft()[0])
        except ServerUnavailableError as error:
            lost = error
        if lost is not None:
            outages.wait(lost)
        elif not one_by_one:
            if broken:
                raise broken[0]
            return
