"""A transport that is an ordinary class: no server, no network."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from imgeval import ServerUnavailableError
from imgeval.contract import METRIC_NAMES
from imgeval.errors import ImgevalError

DETAILS: dict[str, Any] = {
    "score": 0.4,
    "complete": False,
    "profile": "starter",
    "preset": "seed-1",
    "fingerprint": "0123456789abcdef",
    "weights": "published",
    "metrics": {"clip": {"raw": 0.4, "normalized": 0.4, "weight": 1.0, "model": "ConSE"}},
    "missing": dict.fromkeys(set(METRIC_NAMES) - {"clip"}, "not requested"),
    "input": {},
    "sam_clip": {},
}


class FakeTransport:
    """Remembers what was asked, answers each model with what it was given, and fails where it was told to.

    `answer` makes the details of an image and a prompt, where they are not the same for all; it may wait or raise.
    """

    def __init__(
        self,
        details: bytes = json.dumps(DETAILS).encode(),
        error: ImgevalError | None = None,
        answer: Callable[[bytes, str], dict[str, Any]] | None = None,
        config: dict[str, Any] | None = None,
    ) -> None:
        self.url = "fake:1"
        self.calls: list[tuple[str, dict[str, Any], list[str], float]] = []
        self.closed = False
        self._details, self._error, self._answer = details, error, answer
        self._config = config or {}

    def check_ready(self, model: str, timeout_s: float) -> None:
        if isinstance(self._error, ServerUnavailableError):
            raise self._error

    def infer(
        self, model: str, inputs: Mapping[str, Any], outputs: Sequence[str], timeout_s: float
    ) -> dict[str, np.ndarray]:
        given = {name: array.item() for name, array in inputs.items()}
        self.calls.append((model, given, list(outputs), timeout_s))
        if self._error:
            raise self._error
        assert all(array.shape == (1, 1) for array in inputs.values())
        values = {name: f"value of {name}".encode() for name in outputs}
        details = self._details
        if self._answer and "PROMPT" in given:
            details = json.dumps(self._answer(given["IMAGE"], given["PROMPT"].decode())).encode()
            values["INPUT_DETAILS"] = details  # a part is asked for in two calls, and this goes from one to the other
        elif self._answer:
            details = given["INPUT_DETAILS_FOR_COMBINE"]
        if "DETAILS" in values:
            values["DETAILS"] = details
        return {name: np.array([[values[name]]], dtype=np.object_) for name in outputs}

    def start_check_ready(self, model: str, timeout_s: float) -> Future[None]:
        return _started(self.check_ready, model, timeout_s)

    def start_infer(
        self, model: str, inputs: Mapping[str, Any], outputs: Sequence[str], timeout_s: float
    ) -> Future[dict[str, np.ndarray]]:
        return _started(self.infer, model, inputs, outputs, timeout_s)

    def model_config(self, model: str, timeout_s: float) -> dict[str, Any]:
        return self._config

    def server_status(self, timeout_s: float) -> dict[str, Any]:
        return {"name": "fake", "version": "1", "extensions": ["system_shared_memory"], "shared_memory_regions": 0}

    def close(self) -> None:
        self.closed = True


def _started(question: Callable[..., Any], *arguments: Any) -> Future[Any]:
    """A question in a thread of its own; nothing interrupts it, so whoever cancels the future is just not told."""
    future: Future[Any] = Future()

    def answer() -> None:
        try:
            result, error = question(*arguments), None
        except Exception as raised:  # noqa: BLE001 - for whoever waits for the future
            result, error = None, raised
        if future.set_running_or_notify_cancel():
            future.set_exception(error) if error else future.set_result(result)

    threading.Thread(target=answer, daemon=True).start()
    return future
