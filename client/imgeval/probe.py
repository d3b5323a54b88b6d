"""A real inference as a health check: Triton's ready flag stays up when a Python step has died."""

from __future__ import annotations

import io
import os

from imgeval.contract import DETAILS, ENSEMBLE, IMAGE, PROMPT, SCORE
from imgeval.transport import GrpcTransport, Transport

CONNECT_TIMEOUT_S = 2.0
PROBE_SIDE_PX = 64
PROBE_PROMPT = "a plain square"


def probe(url: str, timeout_s: float) -> None:
    """Send one small image through the whole ensemble.

    Raises:
        ServerUnavailableError: nothing listens there, or it does not serve the ensemble.
        ServerFailedError: it does, and the request failed.
    """
    transport = GrpcTransport(url)
    try:
        probe_transport(transport, timeout_s)
    finally:
        transport.close()


def probe_transport(transport: Transport, timeout_s: float) -> None:
    """`probe` on a connection that is open."""
    import numpy as np
    from PIL import Image

    file = io.BytesIO()
    colour = tuple(os.urandom(3))  # a new one each time: an answer out of a cache would hide a model that has died
    Image.new("RGB", (PROBE_SIDE_PX, PROBE_SIDE_PX), colour).save(file, "PNG")
    transport.check_ready(ENSEMBLE, min(timeout_s, CONNECT_TIMEOUT_S))
    transport.infer(
        ENSEMBLE,
        {
            IMAGE.name: np.array([[file.getvalue()]], dtype=np.object_),
            PROMPT.name: np.array([[PROBE_PROMPT.encode()]], dtype=np.object_),
        },
        [SCORE.name, DETAILS.name],
        timeout_s,
    )
