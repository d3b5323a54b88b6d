"""The ensemble on the real server: values, subsets, batches, refusals, and the public contract without our client.

What comes by `transport` is computed each time, by the server without caches; `client` asks the one with.
"""

from __future__ import annotations

import io
import json
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.grpc import service_pb2 as pb

from imgeval import Client, InvalidInputError
from imgeval.contract import IMAGE, MAX_BATCH_SIZE, METRIC_NAMES, PROMPT
from imgeval.embedded.server import EmbeddedServer
from imgeval.transport import GrpcTransport
from tests.golden.make import GOLDEN, examples, measure
from tests.hostile import saved

Pair = tuple[bytes, str]
SERVED = ("clip", "sam_clip", "iqa")  # by the starter profile
TENSORS = tuple(name.upper() for name in SERVED)
DEADLINE_S = 60.0
TOLERANCE = 1e-4  # between a value alone and the same in company

PROMPTS = {
    "astronaut.png": "an astronaut in an orange space suit",
    "coffee.png": "a cup of coffee on a wooden table",
    "chelsea.png": "a close-up of a tabby cat",
    "rocket.jpg": "a rocket on a launch pad at night",
}


@pytest.fixture(scope="module")
def transport(uncached_server: EmbeddedServer) -> Iterator[GrpcTransport]:
    connected = GrpcTransport(uncached_server.url)
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def pairs(photos: dict[str, bytes]) -> list[Pair]:
    """Eight pairs of different images and prompts: each photo with its own prompt, and reduced with another's."""
    own = [(photos[name], prompt) for name, prompt in PROMPTS.items()]
    others = [(reduced(photos[name]), prompt) for name, prompt in zip(PROMPTS, reversed(PROMPTS.values()), strict=True)]
    return own + others


def reduced(photo: bytes) -> bytes:
    with Image.open(io.BytesIO(photo)) as image:
        return saved(image.resize((250, 230)), "PNG")


def infer(transport: GrpcTransport, pairs: Sequence[Pair], *outputs: str) -> dict[str, np.ndarray]:
    """One request of several items."""
    images = np.array([[image] for image, _ in pairs], dtype=np.object_)
    prompts = np.array([[prompt.encode()] for _, prompt in pairs], dtype=np.object_)
    return transport.infer("imgeval", {IMAGE.name: images, PROMPT.name: prompts}, outputs, DEADLINE_S)


def raw(transport: GrpcTransport, pairs: Sequence[Pair]) -> np.ndarray:
    """Raw values, (items, metrics served)."""
    answer = infer(transport, pairs, *TENSORS)
    return np.concatenate([answer[name] for name in TENSORS], axis=1)


def details(transport: GrpcTransport, pair: Pair) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(infer(transport, [pair], "DETAILS")["DETAILS"].item())
    return content


# --- values ----------------------------------------------------------------------------------------------------------
def test_values_are_the_golden_ones(client: Client, shared: Path) -> None:
    """To 1e-3, since other processors round otherwise; `tests/golden/make.py` says how to change them."""
    golden, now = json.loads(GOLDEN.read_text(encoding="utf-8")), measure(client, shared / "assets")
    assert now["models"] == golden["models"]
    assert list(now["images"]) == list(golden["images"])
    for name, expected in golden["images"].items():
        assert now["images"][name]["raw"] == pytest.approx(expected["raw"], rel=1e-3, abs=1e-5), name
        assert now["images"][name]["score"] == pytest.approx(expected["score"], rel=1e-3), name


def test_clip_finds_the_image_of_most_prompts(transport: GrpcTransport, shared: Path) -> None:
    pairs = examples(shared / "assets")
    images = [path.read_bytes() for path, _ in pairs]
    cosines = np.stack(
        [infer(transport, [(image, prompt) for image in images], "CLIP")["CLIP"][:, 0] for _, prompt in pairs]
    )  # (prompts, images)
    print(f"\n{np.round(cosines, 2)}")
    right = int((cosines.argmax(axis=1) == np.arange(len(pairs))).sum())
    assert len(pairs) == 6
    assert right >= 5


def test_metrics_without_a_model_are_nan_and_say_why(transport: GrpcTransport, pairs: list[Pair]) -> None:
    outputs = [name.upper() for name in METRIC_NAMES]
    answer = infer(transport, pairs[:1], *outputs, "SCORE", "DETAILS")
    assert {name for name in outputs if math.isnan(answer[name].item())} == set(outputs) - set(TENSORS)
    said = json.loads(answer["DETAILS"].item())
    assert set(said["missing"]) == set(METRIC_NAMES) - set(SERVED)
    assert all("imgeval-export" in reason for reason in said["missing"].values())
    for name in SERVED:
        assert said["metrics"][name]["raw"] == pytest.approx(answer[name.upper()].item(), abs=1e-7)
    assert said["score"] == pytest.approx(answer["SCORE"].item(), abs=1e-7)
    assert said["complete"] is False
    assert answer["SCORE"].item() == pytest.approx((answer["CLIP"].item() + answer["SAM_CLIP"].item()) / 2, abs=1e-6)


def test_details_explain_sam_clip(transport: GrpcTransport, pairs: list[Pair]) -> None:
    image, prompt = pairs[1]
    said = details(transport, (image, prompt))["sam_clip"]
    with Image.open(io.BytesIO(image)) as opened:
        width, height = opened.size
    assert {keyword["word"] for keyword in said["keywords"]} <= set(prompt.split())
    assert np.array(said["relevance"]).shape == (len(said["keywords"]), len(said["segments"]))
    assert np.array(said["relevance"]).sum(axis=1) == pytest.approx(1, abs=1e-5)
    for segment in said["segments"]:
        x, y, w, h = segment["box"]
        assert 0 <= x < x + w <= width
        assert 0 <= y < y + h <= height
        assert 0.05 * width * height <= segment["area"] <= w * h


@pytest.mark.parametrize("side", [8, 64, 193])
def test_an_image_too_small_for_iqa_has_the_other_metrics(client: Client, side: int) -> None:
    result = client.score(np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8), "a cat")
    assert "iqa" not in result.metrics
    assert str(side) in result.missing["iqa"]
    assert "clip" in result.metrics
    assert result.score is not None


@pytest.mark.parametrize("prompt", ["the of and", "...", "猫"])
def test_a_prompt_without_keywords_has_the_other_metrics(client: Client, photos: dict[str, bytes], prompt: str) -> None:
    """A single character is no word to KeyBERT either."""
    result = client.score(photos["chelsea.png"], prompt)
    assert result.missing["sam_clip"] == "the prompt has no keyword"
    assert set(result.metrics) == {"clip", "iqa"}
    assert result.score == pytest.approx(max(0.0, result.metrics["clip"].raw), abs=1e-6)


@pytest.mark.parametrize(
    "image",
    [Image.new("RGB", (256, 256), (9, 99, 199)), Image.new("RGB", (256, 256)), Image.new("L", (8, 4000), 255),
     Image.new("RGB", (4000, 8), (1, 2, 3)), Image.new("RGB", (194, 2000), (255, 255, 255))],
    ids=["blue", "black", "white and tall", "wide", "just large enough"],
)  # fmt: skip
def test_dull_and_narrow_images_are_scored(client: Client, image: Image.Image) -> None:
    result = client.score(image, "a blue square")
    assert {"clip", "sam_clip"} <= set(result.metrics)
    assert "iqa" in result.missing
    assert "NIQE" in result.missing["iqa"] or "px" in result.missing["iqa"]
    assert "not requested" not in result.missing.values()


# --- what was done to the input --------------------------------------------------------------------------------------
def exif_turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.new("RGB", (64, 32), (200, 10, 10)), "JPEG", exif=exif)


def animated() -> bytes:
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "green", "blue")]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("image", "expected", "action"),
    [
        (exif_turned(), {"format": "JPEG", "orientation": 6, "width": 32, "height": 64}, "EXIF orientation 6 applied"),
        (saved(Image.new("RGBA", (32, 32), (9, 9, 9, 9)), "PNG"), {"alpha_composited": True, "source_mode": "RGBA"},
         "alpha composited over white"),
        (saved(Image.new("CMYK", (32, 32)), "JPEG"), {"source_mode": "CMYK"}, "CMYK converted to RGB"),
        (saved(Image.fromarray(np.full((32, 32), 40_000, np.uint16)), "PNG"), {"format": "PNG"},
         "16-bit samples scaled to 8"),
        (saved(Image.new("L", (32, 32)), "BMP"), {"format": "BMP"}, "grey expanded"),
        (saved(Image.new("P", (32, 32)), "PNG"), {"source_mode": "P"}, "palette expanded"),
        (animated(), {"format": "GIF", "frames": 3}, "first of 3 frames used"),
        (saved(Image.new("RGB", (40, 30)), "WEBP"), {"format": "WEBP", "width": 40, "height": 30, "actions": []}, None),
        (saved(Image.new("RGB", (40, 30)), "TIFF"), {"format": "TIFF", "source_mode": "RGB", "actions": []}, None),
    ],
    ids=["exif", "alpha", "cmyk", "16-bit", "grey", "palette", "animated", "webp", "tiff"],
)  # fmt: skip
def test_what_was_done_to_an_image_is_said(
    client: Client, image: bytes, expected: dict[str, object], action: str | None
) -> None:
    said = client.score(image, "a red square", metrics=["clip"]).to_dict()["input"]
    assert {key: said[key] for key in expected} == expected
    assert said["encoded_bytes"] == len(image)
    assert action is None or action in said["actions"]


@pytest.mark.parametrize(("words", "dropped"), [(254, 0), (255, 1), (1000, 746)])
def test_tokens_that_were_dropped_are_said(client: Client, photos: dict[str, bytes], words: int, dropped: int) -> None:
    result = client.score(photos["chelsea.png"], " ".join(["cat"] * words))
    assert (result.input["tokens"], result.input["tokens_dropped"]) == (256, dropped)
    assert set(result.metrics) == set(SERVED)


# --- a subset costs only itself --------------------------------------------------------------------------------------
class Statistics:
    """What the server's models have run since the last question; the test is the only one that sends requests."""

    def __init__(self, url: str) -> None:
        self._client = triton.InferenceServerClient(url)
        self._last = self._settled()

    def close(self) -> None:
        self._client.close()

    def requests(self) -> dict[str, int]:
        """Inferences by model, of those that ran."""
        return {name: new for name, (new, _) in self._since().items() if new}

    def batch_sizes(self) -> dict[str, set[int]]:
        """Sizes of the batches by model."""
        return {name: sizes for name, (_, sizes) in self._since().items() if sizes}

    def _since(self) -> dict[str, tuple[int, set[int]]]:
        last, self._last = self._last, self._settled()
        return {
            name: (count - last[name][0], {size for size in sizes if sizes[size] > last[name][1].get(size, 0)})
            for name, (count, sizes) in self._last.items()
        }

    def _settled(self) -> dict[str, tuple[int, dict[int, int]]]:
        """By model: inferences, and how many batches there were of each size. Triton counts after it has answered."""
        before, now = None, self._read()
        while now != before:
            time.sleep(0.2)
            before, now = now, self._read()
        return now

    def _read(self) -> dict[str, tuple[int, dict[int, int]]]:
        models = self._client.get_inference_statistics().model_stats
        return {
            model.name: (
                model.inference_stats.success.count,
                {batch.batch_size: batch.compute_infer.count for batch in model.batch_stats},
            )
            for model in models
        }


@pytest.fixture
def statistics(uncached_server: EmbeddedServer) -> Iterator[Statistics]:
    asked = Statistics(uncached_server.url)
    yield asked
    asked.close()


@pytest.mark.parametrize(
    ("outputs", "ran"),
    [
        (["CLIP"], {"preprocess", "clip_image", "clip_text", "clip"}),
        (["IQA"], {"preprocess", "iqa"}),
        (["IQA", "IQA_DETAILS", "INPUT_DETAILS"], {"preprocess", "iqa"}),
        (["SAM_CLIP"], {"preprocess", "sam_clip", "clip_image", "clip_text"}),
        (["AESTHETIC"], {"preprocess", "unavailable"}),
        (["INPUT_DETAILS"], {"preprocess"}),
        (["SCORE"], {"preprocess", "clip_image", "clip_text", "clip", "sam_clip", "iqa", "unavailable", "combine"}),
        (["CLIP", "AESTHETIC", "IQA"], {"preprocess", "clip_image", "clip_text", "clip", "unavailable", "iqa"}),
    ],
    ids="+".join,
)
def test_a_request_runs_only_what_its_outputs_need(
    transport: GrpcTransport, pairs: list[Pair], statistics: Statistics, outputs: list[str], ran: set[str]
) -> None:
    answer = infer(transport, pairs[:1], *outputs)
    assert set(answer) == set(outputs)
    assert set(statistics.requests()) == {"imgeval", *ran}


@pytest.mark.parametrize("metric", SERVED)
def test_the_client_runs_only_what_it_was_asked_for(
    transport: GrpcTransport, pairs: list[Pair], statistics: Statistics, metric: str
) -> None:
    with Client(transport.url) as client:
        client.score(*pairs[0], metrics=[metric])
    ran = statistics.requests()
    assert ran["details"] == ran["imgeval"] == ran["preprocess"] == ran[metric] == 1
    assert not set(ran) & (set(SERVED) - {metric})


# --- batches ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def alone(transport: GrpcTransport, pairs: list[Pair]) -> np.ndarray:
    """Raw values of each pair sent by itself, (items, metrics)."""
    values = np.concatenate([raw(transport, [pair]) for pair in pairs])
    assert np.isfinite(values).all()
    assert (values.std(axis=0) > 100 * TOLERANCE).all(), "values that hardly differ would prove nothing"
    return values


def assert_same(what: str, values: np.ndarray, alone: np.ndarray) -> None:
    difference = np.abs(values - alone)
    for name, column in zip(SERVED, difference.T, strict=True):
        print(f"\n{what}, {name}: max {column.max():.1e}, mean {column.mean():.1e}", end="")
    assert difference.max() < TOLERANCE


def test_a_value_is_the_same_in_a_batch(
    transport: GrpcTransport, statistics: Statistics, pairs: list[Pair], alone: np.ndarray
) -> None:
    assert len(pairs) == MAX_BATCH_SIZE == 8
    statistics.batch_sizes()
    together = raw(transport, pairs)
    sizes = statistics.batch_sizes()
    assert_same("one request of 8", together, alone)
    assert_same("the same, backwards", raw(transport, pairs[::-1])[::-1], alone)
    assert all(sizes[name] == {8} for name in ("preprocess", "clip", "sam_clip", "iqa")), sizes
    assert max(sizes["clip_image"]) >= 8, sizes


def test_a_value_is_the_same_next_to_concurrent_requests(
    transport: GrpcTransport, pairs: list[Pair], alone: np.ndarray
) -> None:
    with ThreadPoolExecutor(9) as pool:
        values = list(pool.map(lambda pair: raw(transport, [pair]), [*pairs, pairs[0]]))
    assert_same("9 requests at once", np.concatenate(values), np.concatenate([alone, alone[:1]]))


def test_each_item_of_a_batch_has_its_own_details(transport: GrpcTransport, pairs: list[Pair]) -> None:
    answer = infer(transport, pairs, "DETAILS", "SCORE")
    for (image, prompt), said, score in zip(pairs, answer["DETAILS"][:, 0], answer["SCORE"][:, 0], strict=True):
        content = json.loads(said)
        assert content["input"]["encoded_bytes"] == len(image)
        assert {keyword["word"] for keyword in content["sam_clip"]["keywords"]} <= set(prompt.split("-")[0].split()) | {
            "close", "up", "tabby", "cat",
        }  # fmt: skip
        assert content["score"] == pytest.approx(score, abs=1e-6)


def test_a_batch_that_is_too_large_is_refused(transport: GrpcTransport, pairs: list[Pair]) -> None:
    with pytest.raises(InvalidInputError, match="batch"):
        infer(transport, [*pairs, pairs[0]], "CLIP")


# --- refusals --------------------------------------------------------------------------------------------------------
def test_a_bad_item_does_not_disturb_its_neighbours(
    transport: GrpcTransport, pairs: list[Pair], alone: np.ndarray
) -> None:
    """Good and bad requests at once, so that the dynamic batchers put them together; each gets its own answer."""
    bad: list[Pair] = [(b"no image", "a cat"), (pairs[0][0], " "), (pairs[1][0][:500], "coffee"), (b"", "nothing")]
    mixed = [pair for both in zip(pairs, bad * 2, strict=True) for pair in both]

    def one(pair: Pair) -> np.ndarray | InvalidInputError:
        try:
            return raw(transport, [pair])
        except InvalidInputError as error:
            return error

    with ThreadPoolExecutor(len(mixed)) as pool:
        answers = list(pool.map(one, mixed))
    good, refused = answers[::2], answers[1::2]
    assert all(isinstance(answer, np.ndarray) for answer in good)
    assert_same("next to bad ones", np.concatenate(good), alone)
    assert [getattr(error, "field", None) for error in refused] == ["IMAGE", "PROMPT", "IMAGE", "IMAGE"] * 2


def test_a_bad_item_within_a_request_is_named(transport: GrpcTransport, pairs: list[Pair]) -> None:
    items = [pairs[0], pairs[1], (pairs[2][0], "\n"), pairs[3]]
    with pytest.raises(InvalidInputError, match="PROMPT: got blank text"):
        infer(transport, items, "SCORE")
    with (
        triton.InferenceServerClient(transport.url) as direct,
        pytest.raises(triton.InferenceServerException, match="preprocess: item 2: PROMPT: got blank text") as refused,
    ):
        direct.infer("imgeval", triton_inputs(triton, items))
    assert "INVALID_ARGUMENT" in str(refused.value.status())


def triton_inputs(module: Any, pairs: Sequence[Pair]) -> list[Any]:
    """The inputs of a request as tritonclient's gRPC or HTTP module takes them."""
    values = {"IMAGE": [image for image, _ in pairs], "PROMPT": [prompt.encode() for _, prompt in pairs]}
    inputs = []
    for name, column in values.items():
        tensor = module.InferInput(name, [len(pairs), 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[value] for value in column], dtype=np.object_))
        inputs.append(tensor)
    return inputs


# --- the public contract alone ---------------------------------------------------------------------------------------
def test_plain_grpc(server: EmbeddedServer, pairs: list[Pair], alone: np.ndarray) -> None:
    """grpcio and the messages of KServe's protocol, as any language has them: docs say it in these words."""
    image, prompt = pairs[0]
    request = pb.ModelInferRequest(
        model_name="imgeval",
        inputs=[
            pb.ModelInferRequest.InferInputTensor(name=name, datatype="BYTES", shape=[1, 1])
            for name in ("IMAGE", "PROMPT")
        ],
        outputs=[pb.ModelInferRequest.InferRequestedOutputTensor(name=name) for name in ("CLIP", "DETAILS")],
        raw_input_contents=[len(value).to_bytes(4, "little") + value for value in (image, prompt.encode())],
    )
    with grpc.insecure_channel(server.url) as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )
        response = call(request, timeout=DEADLINE_S)
        request.raw_input_contents[0] = b"\x03\0\0\0cat"
        with pytest.raises(grpc.RpcError, match="IMAGE: got 3 unreadable bytes") as refused:
            call(request, timeout=DEADLINE_S)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    contents = dict(zip((output.name for output in response.outputs), response.raw_output_contents, strict=True))
    assert np.frombuffer(contents["CLIP"], "<f4")[0] == pytest.approx(alone[0, 0], abs=1e-6)
    assert json.loads(contents["DETAILS"][4:])["metrics"]["clip"]["raw"] == pytest.approx(alone[0, 0], abs=1e-6)


def test_typed_contents_instead_of_raw_ones(server: EmbeddedServer, pairs: list[Pair], alone: np.ndarray) -> None:
    """What grpcurl sends: `contents.bytes_contents`."""
    image, prompt = pairs[0]
    tensors = [
        pb.ModelInferRequest.InferInputTensor(
            name=name, datatype="BYTES", shape=[1, 1], contents=pb.InferTensorContents(bytes_contents=[value])
        )
        for name, value in (("IMAGE", image), ("PROMPT", prompt.encode()))
    ]
    request = pb.ModelInferRequest(model_name="imgeval", inputs=tensors)
    with grpc.insecure_channel(server.url) as channel:
        response = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=pb.ModelInferRequest.SerializeToString,
            response_deserializer=pb.ModelInferResponse.FromString,
        )(request, timeout=DEADLINE_S)
    contents = dict(zip((output.name for output in response.outputs), response.raw_output_contents, strict=True))
    assert {"SCORE", "DETAILS", *(name.upper() for name in METRIC_NAMES)} <= set(contents), "all outputs by default"
    assert np.frombuffer(contents["CLIP"], "<f4")[0] == pytest.approx(alone[0, 0], abs=1e-6)


def test_tritonclient_http(server: EmbeddedServer, pairs: list[Pair], alone: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of gevent and its friends, while they are imported
        http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient(f"127.0.0.1:{server.http_port}")
    outputs = [http.InferRequestedOutput(name) for name in TENSORS]
    response = client.infer("imgeval", triton_inputs(http, pairs[:2]), outputs=outputs)
    values = np.concatenate([response.as_numpy(name) for name in TENSORS], axis=1)
    assert_same("HTTP", values, alone[:2])
    with pytest.raises(Exception, match="IMAGE: got 2 unreadable bytes") as refused:
        client.infer("imgeval", triton_inputs(http, [(b"no", "a cat")]), outputs=outputs)
    assert refused.value.status() == "400"
    client.close()


def test_metadata_is_the_contract(server: EmbeddedServer) -> None:
    """What perf_analyzer and any generic client read first."""
    with triton.InferenceServerClient(server.url) as direct:
        metadata = direct.get_model_metadata("imgeval")
        config = direct.get_model_config("imgeval").config
    assert {(each.name, each.datatype, tuple(each.shape)) for each in metadata.inputs} == {
        ("IMAGE", "BYTES", (-1, 1)),
        ("PROMPT", "BYTES", (-1, 1)),
    }
    outputs = {each.name: (each.datatype, tuple(each.shape)) for each in metadata.outputs}
    for name in ("SCORE", *(name.upper() for name in METRIC_NAMES)):
        assert outputs[name] == ("FP32", (-1, 1))
    assert outputs["DETAILS"] == ("BYTES", (-1, 1))
    assert config.max_batch_size == MAX_BATCH_SIZE
