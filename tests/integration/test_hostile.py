"""200 images that are made to break a server, several at a time: each is refused, and nothing else happens."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from imgeval import Client, InvalidInputError
from imgeval.embedded.server import EmbeddedServer
from imgeval.probe import probe
from imgeval.transport import GrpcTransport
from tests.hostile import hostile_images

AT_ONCE = 8
DEADLINE_S = 120.0


def test_every_hostile_image_is_refused_and_the_server_goes_on(
    server: EmbeddedServer, client: Client, photos: dict[str, bytes]
) -> None:
    before = client.score(photos["coffee.png"], "a cup of coffee")
    hostile = hostile_images(200)
    transport = GrpcTransport(server.url)  # as the client has its own checks, which this is not about

    def send(item: tuple[str, bytes]) -> str:
        label, image = item
        inputs = {"IMAGE": image, "PROMPT": b"a photo"}
        try:
            transport.infer(
                "imgeval",
                {name: np.array([[value]], dtype=np.object_) for name, value in inputs.items()},
                ["SCORE", "DETAILS"],
                DEADLINE_S,
            )
        except InvalidInputError as error:
            return "refused" if error.field == "IMAGE" and "allowed" in str(error) else f"{label}: {error}"
        except Exception as error:  # noqa: BLE001 - whatever it is, the test reports it with the image's name
            return f"{label}: {error!r}"
        return f"{label}: was scored"

    with ThreadPoolExecutor(AT_ONCE) as pool:
        outcomes = Counter(pool.map(send, hostile))
    transport.close()
    assert outcomes == {"refused": 200}

    probe(server.url, DEADLINE_S)
    after = client.score(photos["coffee.png"], "a cup of coffee")
    assert after.metrics == before.metrics


@pytest.mark.parametrize(
    "prompt", [b"", b" \n", b"\xff\xfe", b"a\xc0\x80", b"\xed\xa0\x80", b"x" * 8193, b"x" * 1_000_000, b"a\0" + b"\x80"]
)
def test_hostile_prompts_are_refused(server: EmbeddedServer, photos: dict[str, bytes], prompt: bytes) -> None:
    transport = GrpcTransport(server.url)
    inputs = {"IMAGE": photos["coffee.png"], "PROMPT": prompt}
    arrays = {name: np.array([[value]], dtype=np.object_) for name, value in inputs.items()}
    with pytest.raises(InvalidInputError, match="got") as refused:
        transport.infer("imgeval", arrays, ["SCORE"], DEADLINE_S)
    transport.close()
    assert refused.value.field == "PROMPT"


@pytest.mark.parametrize("prompt", ["a\0b cat", "<|endoftext|> [CLS] [SEP] cat", "👩‍🚀" * 100, "\u202ecat", "x" * 8192])
def test_odd_prompts_are_scored(client: Client, photos: dict[str, bytes], prompt: str) -> None:
    assert client.score(photos["coffee.png"], prompt).score is not None
