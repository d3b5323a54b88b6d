"""Checks of a server, on a connection to it."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw

from imgeval.client import Client
from imgeval.contract import ENSEMBLE
from imgeval.doctor.check import Check, run
from imgeval.errors import (
    DeadlineExceededError,
    ImgevalError,
    ServerFailedError,
    ServerUnavailableError,
)
from imgeval.probe import CONNECT_TIMEOUT_S

PHOTO_SIDE_PX = 320  # NIQE needs 194
PHOTO_PROMPT = "a sun above a green field"
MAX_DRIFT_S = 0.1  # of the wall clock against the monotonic one while the checks ran

START_ADVICE = "start one here: imgeval-server start, or doctor --start; or give another with --url"
RESTART = "look into the server's log (imgeval-server logs), and restart it (imgeval-server stop)"


class ServerChecks:
    """The checks of one server; they share what they learn of it."""

    def __init__(self, client: Client, timeout_s: float, metrics: Sequence[str]) -> None:
        self._client, self._transport, self._timeout_s, self._metrics = client, client.transport, timeout_s, metrics
        self._started = (time.time(), time.monotonic())

    def run(self) -> Iterator[Check]:
        """All of them, or the first one alone where there is no server."""
        reachable = list(self.reachable())
        yield from reachable
        if all(check.state == "ok" for check in reachable):
            checks = (self.described, self.shared_memory, self.inference)
            yield from run(checks)
        yield from run((self.clock,))

    def reachable(self) -> Iterator[Check]:
        """Does it answer, and is the ensemble ready."""
        start = time.perf_counter()
        try:
            self._transport.check_ready(ENSEMBLE, min(CONNECT_TIMEOUT_S, self._timeout_s))
        except ServerUnavailableError as error:
            yield Check("server", "fail", str(error), START_ADVICE)
            return
        waited_ms = (time.perf_counter() - start) * 1e3
        yield Check("server", "ok", f"{self._transport.url} is ready, asked in {waited_ms:.0f} ms")

    def described(self) -> Iterator[Check]:
        """What it is, and whether its numbers are scores."""
        try:
            served = self._client.metrics()
        except ServerFailedError as error:
            yield Check("models", "warn", str(error), "results are not touched by this; build again for `metrics`")
            return
        seen = f"profile {served.profile}, preset {served.preset}, fingerprint {served.fingerprint}"
        if served.weights == "published":
            yield Check("models", "ok", seen)
        else:
            advice = f"imgeval-export build --profile {served.profile}, without --random-weights"
            yield Check("models", "warn", f"{seen}, weights {served.weights}: its numbers are no scores", advice)

    def shared_memory(self) -> Iterator[Check]:
        """Whether the server answers for the extension by which clients on its machine share memory with it."""
        try:
            status = self._transport.server_status(min(CONNECT_TIMEOUT_S, self._timeout_s))
        except ImgevalError as error:
            yield Check("server version", "warn", str(error), "results are not touched by this")
            return
        name, version = status["name"], status["version"]
        yield Check("server version", "ok", f"{name} {version}")
        if "system_shared_memory" in status["extensions"]:
            regions = status["shared_memory_regions"]
            yield Check("server's shared memory", "ok", f"offered, {regions} regions are registered")
        else:
            seen = "not offered; imgeval-client does not need it, requests go over gRPC"
            yield Check("server's shared memory", "ok", seen)

    def inference(self) -> Iterator[Check]:
        """One real inference per metric, of an image that no cache has seen."""
        for name in self._metrics:
            start = time.perf_counter()
            try:
                result = self._client.score(photo(), PHOTO_PROMPT, metrics=[name])
            except DeadlineExceededError as error:
                yield Check(
                    f"metric {name}", "fail", str(error), "give it more time with --timeout, or a faster machine"
                )
                continue
            except ImgevalError as error:
                yield Check(f"metric {name}", "fail", str(error), RESTART)
                continue
            took_ms = (time.perf_counter() - start) * 1e3
            if name in result.metrics:
                value = result.metrics[name]
                yield Check(f"metric {name}", "ok", f"{value.raw:.4f} in {took_ms:.0f} ms, by {value.model}")
            else:
                yield Check(f"metric {name}", "warn", "missing", result.missing.get(name, "no reason given"))

    def clock(self) -> Iterator[Check]:
        """Whether the wall clock kept pace with the monotonic one while the checks ran; deadlines go by the latter."""
        wall_s, monotonic_s = time.time() - self._started[0], time.monotonic() - self._started[1]
        drift_s = wall_s - monotonic_s
        seen = f"the wall clock moved by {drift_s * 1e3:+.1f} ms against the monotonic one in {monotonic_s:.1f} s"
        if abs(drift_s) <= MAX_DRIFT_S:
            yield Check("clock", "ok", seen)
        else:
            yield Check("clock", "warn", seen, "deadlines are not touched by this, times in logs are: synchronise it")


def photo() -> bytes:
    """A new picture each time, with parts that every metric finds something in: sky, sun, field, and grain."""
    random = np.random.default_rng(int.from_bytes(os.urandom(8), "little"))
    side = PHOTO_SIDE_PX
    image = Image.new("RGB", (side, side), (110, 170, 240))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, side * 0.6, side, side), fill=(60, 140, 50))
    x, y, radius = random.integers(90, side - 90), random.integers(60, 110), 45
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(250, 220, 60))
    grain = random.normal(0, 6, (side, side, 3))
    pixels = np.clip(np.asarray(image, dtype=np.float64) + grain, 0, 255).astype(np.uint8)  # (320, 320, 3)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
