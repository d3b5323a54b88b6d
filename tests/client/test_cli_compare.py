"""imgeval-client rank, match, and score of several pairs: what they print and how they end.

On a small server of Triton's protocol.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import CliRunner
from tritonclient.grpc import service_pb2 as pb

from imgeval import client as library
from imgeval.cli import main
from imgeval.contract import METRIC_NAMES
from tests.fake_transport import DETAILS
from tests.fake_triton import dying, refusing, serving

Ended = tuple[int, str, str]


def details(clip: float, **other: Any) -> dict[str, Any]:
    metric = {"raw": clip, "normalized": clip, "weight": 1.0, "model": "a CLIP"}
    return {**DETAILS, "score": clip, "metrics": {"clip": metric}, **other}


def by_length(**other: Any) -> Callable[[pb.ModelInferRequest, grpc.ServicerContext], pb.ModelInferResponse]:
    """Answers as the ensemble and its last step do; clip is (bytes of the image + bytes of the prompt) / 100."""

    def answer(request: pb.ModelInferRequest, context: grpc.ServicerContext) -> pb.ModelInferResponse:
        given = {each.name: raw for each, raw in zip(request.inputs, request.raw_input_contents, strict=True)}
        if "IMAGE" in given:
            image, prompt = given["IMAGE"][4:], given["PROMPT"][4:]  # after their lengths
            if image == b"broken":
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "preprocess: IMAGE: got a broken file")
            clip = (len(image) + len(prompt)) / 100
        else:
            (clip,) = struct.unpack("<f", given["CLIP_FOR_COMBINE"])
        made = json.dumps(details(round(clip, 4), **other)).encode()
        texts = len(made).to_bytes(4, "little") + made
        response = pb.ModelInferResponse(model_name=request.model_name)
        for output in request.outputs:
            number = output.name == "CLIP"
            response.outputs.add(name=output.name, datatype="FP32" if number else "BYTES", shape=[1, 1])
            response.raw_output_contents.append(struct.pack("<f", clip) if number else texts)
        return response

    return answer


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(by_length()) as served:
        yield served


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Files of 1, 2 and 3 bytes: the fake server likes long ones."""
    names = [str(tmp_path / f"{size}.jpg") for size in (1, 2, 3)]
    for size, name in enumerate(names, 1):
        Path(name).write_bytes(b"x" * size)
    return names


def ended(*arguments: object) -> Ended:
    result = CliRunner().invoke(main, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def assert_one_line(end: Ended, code: int, problem: str) -> None:
    got, out, err = end
    assert (got, out, err.count("\n")) == (code, "", 1), err
    assert err.startswith(f"error: {problem}")


# --- what they print -------------------------------------------------------------------------------------------------
def test_rank_prints_the_best_first(url: str, images: list[str]) -> None:
    code, out, err = ended("rank", "a dog", *images, "--url", url)
    assert (code, err) == (0, "")
    heading, *rows, origin = out.splitlines()
    assert heading.split() == ["place", "score", "probability", "clip", "image"]
    assert [row.split()[0] for row in rows] == ["1", "2", "3"]
    assert [row.split()[-1] for row in rows] == images[::-1]
    assert rows[0].split()[1:4] == ["0.0800", "0.6652", "0.0800"]  # softmax of 8, 7, 6
    assert origin == "by score (preset seed-1, profile starter, incomplete: only clip)"


def test_match_prints_the_best_first_and_computes_clip_alone(url: str, images: list[str]) -> None:
    code, out, err = ended("match", images[0], "a", "a dog", "a cat", "--url", url)
    assert (code, err) == (0, "")
    heading, *rows, caveat, origin = out.splitlines()
    assert heading.split() == ["place", "clip", "probability", "prompt"]
    assert [row.split()[0] for row in rows] == ["1", "1", "3"]
    assert [" ".join(row.split()[3:]) for row in rows] == ["a dog", "a cat", "a"]
    assert (caveat, origin) == ("tie: 2 share place 1", "by clip (a CLIP)")


def test_json_is_one_object(url: str, images: list[str]) -> None:
    code, out, err = ended("rank", "a dog", *images, "/nowhere/\udce9.jpg", "--url", url, "--json")
    assert code == 2
    assert err.startswith("error: 1 of 4 could not be scored: IMAGE: /nowhere/")
    assert (out.count("\n"), err.count("\n")) == (1, 1)
    content = json.loads(out)
    assert (content["by"], content["comparable"], content["caveats"]) == ("score", True, [])
    assert [row["place"] for row in content["rows"]] == [1, 2, 3, None]
    assert [row["index"] for row in content["rows"]] == [2, 1, 0, 3]
    assert content["rows"][0]["result"]["metrics"]["clip"]["raw"] == 0.08
    assert content["rows"][0]["prompt"] == "a dog"
    assert content["rows"][3]["result"] is None
    assert "does not exist" in content["rows"][3]["error"]
    code, out, _ = ended("match", images[0], "a dog", "a", "--url", url, "--json", "--by", "score")
    assert (code, json.loads(out)["rows"][0]["prompt"], json.loads(out)["by"]) == (0, "a dog", "score")


@pytest.mark.parametrize("command", ["rank", "match"])
def test_random_weights_are_said_aloud(command: str, images: list[str]) -> None:
    with serving(by_length(weights="random")) as url:
        arguments = ["a dog", images[0]] if command == "rank" else [images[0], "a dog"]
        code, out, _ = ended(command, *arguments, "--url", url)
    assert code == 0
    assert "WEIGHTS ARE RANDOM: these numbers are no scores" in out.splitlines()


def test_score_of_several_pairs(url: str, images: list[str]) -> None:
    code, out, err = ended("score", images[0], "a", images[2], "a dog", images[0], "a", "--url", url)
    assert (code, err) == (0, "")
    heading, *rows, origin = out.splitlines()
    assert heading.split() == ["score", "clip", "image", "prompt"]
    assert [row.strip().split(maxsplit=3)[2:] for row in rows] == [
        [images[0], "a"],
        [images[2], "a dog"],
        [images[0], "a"],
    ]
    values = [float(row.split()[0]) for row in rows]
    assert values[0] == values[2] < values[1] == 0.08
    assert origin == "scores by preset seed-1, profile starter, incomplete: only clip"


def test_score_of_several_pairs_as_json_lines(url: str, images: list[str]) -> None:
    pairs = (images[0], "a", "/nowhere/b.jpg", "a dog", images[1], " ", images[2], "a dog")
    code, out, err = ended("score", *pairs, "--url", url, "--json")
    assert code == 2
    assert err == "error: 2 of 4 could not be scored: IMAGE: /nowhere/b.jpg does not exist\n"
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["image"], line["prompt"]) for line in lines] == list(zip(pairs[::2], pairs[1::2], strict=True))
    assert "does not exist" in lines[1]["error"]
    assert set(lines[1]) == {"image", "prompt", "error"}
    single = json.loads(ended("score", images[2], "a dog", "--url", url, "--json")[1])
    del single["timing_ms"], lines[3]["timing_ms"]
    assert lines[3] == single, "as it is for one pair"


def test_score_of_a_bad_pair_among_good_ones(url: str, images: list[str]) -> None:
    code, out, err = ended("score", images[0], "a", "/nowhere/b.jpg", "a dog", "--url", url)
    assert (code, err.count("\n")) == (2, 1)
    assert "failed /nowhere/b.jpg: IMAGE: /nowhere/b.jpg does not exist" in out.splitlines()
    with serving(by_length(weights="random")) as random:
        assert "WEIGHTS ARE RANDOM" in ended("score", images[0], "a", images[1], "b", "--url", random)[1]


# --- how they end ----------------------------------------------------------------------------------------------------
def test_a_bad_image_among_good_ones_is_a_row_and_exit_code_2(url: str, images: list[str], tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    bad = [tmp_path / "missing.jpg", tmp_path / "broken.jpg"]
    code, out, err = ended("rank", "a dog", images[0], *bad, images[1], "--url", url)
    assert code == 2
    assert err == f"error: 2 of 4 could not be scored: IMAGE: {bad[0]} does not exist\n"
    rows = out.splitlines()[1:]
    assert [row.split()[0] for row in rows[:4]] == ["1", "2", "-", "-"]
    assert f"failed {bad[0]}: IMAGE: {bad[0]} does not exist" in rows
    assert f"failed {bad[1]}: IMAGE: got a broken file" in rows


def test_a_bad_prompt_among_good_ones_is_a_row_and_exit_code_2(url: str, images: list[str]) -> None:
    code, out, err = ended("match", images[0], "a dog", " ", "caf\udce9", "--url", url)
    assert code == 2
    assert err.startswith("error: 2 of 3 could not be scored: PROMPT: got blank text")
    assert [row.split()[0] for row in out.splitlines()[1:4]] == ["1", "-", "-"]
    assert "failed caf?: PROMPT: got text that is not UTF-8 at character 3" in out


def test_where_nothing_can_be_scored_nothing_is_printed(url: str, tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    end = ended("rank", "a dog", tmp_path / "broken.jpg", tmp_path / "missing.jpg", "--url", url)
    assert_one_line(end, 2, "2 of 2 could not be scored: IMAGE: got a broken file")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["rank", "a dog", "/nowhere/a.jpg", "/tmp"], "IMAGE: /nowhere/a.jpg does not exist"),
        (["rank", "a dog", "/tmp"], "IMAGE: /tmp is a directory"),
        (["rank", " ", "IMAGE"], "PROMPT: got blank text"),
        (["rank", "a dog", "IMAGE", "--by", "beauty"], f"by: got beauty; allowed: score, {', '.join(METRIC_NAMES)}"),
        (["rank", "a dog", "IMAGE", "--by", "iqa", "--metrics", "clip"], "by: got iqa, which is not among"),
        (["rank", "a dog", "IMAGE", "--metrics", "beauty"], "metrics: got beauty"),
        (["rank", "a dog", "IMAGE", "--metrics", ""], "metrics: got none"),
        (["rank", "a dog"], "Missing argument 'IMAGES"),
        (["match", "/nowhere/a.jpg", "a dog"], "IMAGE: /nowhere/a.jpg does not exist"),
        (["match", "IMAGE", " ", ""], "PROMPT: got blank text"),
        (["match", "IMAGE"], "Missing argument 'PROMPTS"),
        (["match", "IMAGE", "a dog", "--metrics", "iqa"], "by: got clip, which is not among"),
        (["score", "IMAGE", "a", "IMAGE"], "got 3 arguments; allowed: pairs, IMAGE PROMPT or IMAGE PROMPT IMAGE"),
        (["score", "/nowhere/a.jpg", "a", "IMAGE", " "], "IMAGE: /nowhere/a.jpg does not exist"),
        (["score", "IMAGE", "a", "IMAGE", "b", "--metrics", "beauty"], "metrics: got beauty"),
        (["match", "IMAGE", "a dog", "--url", "nonsense"], "url: got 'nonsense'"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_bad_input_is_refused_before_a_server_is_asked_or_started(
    arguments: list[str], problem: str, images: list[str], monkeypatch: pytest.MonkeyPatch, unused_port: int
) -> None:
    monkeypatch.delenv("IMGEVAL_URL", raising=False)
    monkeypatch.setattr(library, "DEFAULT_URL", "this is no address: asking it would be another error")
    assert_one_line(ended(*(images[0] if each == "IMAGE" else each for each in arguments)), 2, problem)


def test_servers_that_are_down_or_fail(images: list[str], unused_port: int) -> None:
    url = f"127.0.0.1:{unused_port}"
    assert_one_line(ended("rank", "a dog", *images, "--url", url), 3, f"no server at {url}")
    assert_one_line(ended("match", images[0], "a dog", "--url", url), 3, f"no server at {url}")
    with serving(refusing(grpc.StatusCode.INTERNAL, "clip: broken")) as url:
        assert_one_line(ended("rank", "a dog", *images, "--url", url), 4, "3 of 3 could not be scored: the server at")


def test_a_server_that_dies_of_it(images: list[str]) -> None:
    with dying() as url:
        code, out, err = ended("rank", "a dog", images[0], "--url", url)
    assert (code, out) == (4, "")
    assert "UNAVAILABLE" in err


@pytest.mark.parametrize("command", ["score", "rank", "match", "metrics", "doctor"])
def test_help_has_an_example_and_the_shared_options(command: str) -> None:
    code, out, _ = ended(command, "--help")
    assert code == 0
    assert f"Example: imgeval-client {command} " in " ".join(out.split())
    for option in ("--url", "--metrics", "--json", "--profile", "--timeout", "--idle-timeout"):
        assert f"{option} " in out
