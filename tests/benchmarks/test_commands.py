"""What the benchmarks' commands count, choose and write, without measuring anything."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import document, gpu, overhead, upstream, where
from benchmarks.__main__ import main
from benchmarks.decode import plain, served
from benchmarks.flops import flops
from benchmarks.needed import Recorder, needed
from benchmarks.options import NotMeasuredError, Report, reported
from benchmarks.pictures import jpeg
from benchmarks.serving import Setup
from benchmarks.upstream import Row, largest_difference
from imgeval.client import Client
from imgeval_export.verify import samples

PROMPT = "a cup of coffee on a wooden table"


def write_by(command: click.Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    """Run a command with an empty document; returns what is in it afterwards, "" where there is none."""
    path = tmp_path / "benchmarks.md"
    monkeypatch.setattr(document, "PATH", path)
    result = CliRunner().invoke(command, list(arguments))
    assert result.exit_code == 0, result.output
    return path.read_text(encoding="utf-8") if path.exists() else ""


@click.command()
@reported("known")
def known() -> Report:
    return Report("a finding", "starter", {"known.svg": "<svg/>"})


@click.command()
@reported("lacking")
def lacking() -> Report:
    raise NotMeasuredError("no such machine")


def test_a_report_is_written_only_if_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert write_by(known, tmp_path, monkeypatch) == ""
    assert not list(tmp_path.iterdir())
    text = write_by(known, tmp_path, monkeypatch, "--write")
    assert "<!-- known starter -->" in text and "a finding" in text and "load before the measurement" in text
    assert (tmp_path / "known.svg").read_text(encoding="utf-8") == "<svg/>"


def test_what_could_not_be_measured_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert write_by(lacking, tmp_path, monkeypatch, "--write") == ""
    monkeypatch.setattr(gpu, "_gpu", lambda: None)
    result = CliRunner().invoke(main, ["gpu", "--write"])
    assert result.exit_code == 0
    assert result.output == "gpu: not measured: this machine has no GPU (nvidia-smi finds none)\n"


def test_a_folder_that_is_no_repository_is_refused_in_one_line(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["where", "--repository", str(tmp_path)])
    assert result.exit_code == 2
    assert "is no model repository" in result.output and "Traceback" not in result.output


# --- on the starter's repository -------------------------------------------------------------------------------------
def test_only_served_metrics_are_measured(repository: Path) -> None:
    setup = Setup.of(repository)
    assert (setup.subject, setup.notice) == ("starter", "")
    assert setup.metrics == ("clip", "sam_clip", "iqa")
    assert setup.check("iqa, clip") == ("clip", "iqa")
    with pytest.raises(click.UsageError, match=r"got aesthetic; this repository serves clip, sam_clip, iqa"):
        setup.check("clip,aesthetic")


def test_bare_models_give_what_the_server_gives(repository: Path, client: Client) -> None:
    image, names = jpeg(0, 300, 200), ("clip", "sam_clip", "iqa")
    bare, result = Recorder(repository).score(image, PROMPT, names), client.score(image, PROMPT)
    differences = [abs(bare[name] - result.metrics[name].raw) for name in names]
    print(f"max {max(differences):.2g}, mean {sum(differences) / len(differences):.2g}")
    assert max(differences) < 1e-5


def test_a_metric_needs_the_networks_that_it_calls(repository: Path) -> None:
    recorder = Recorder(repository)
    clip = needed(recorder, jpeg(0, 300, 200), PROMPT, "clip")
    calls = [call for call in recorder.calls if call.model != "combine"]
    assert Counter(call.model for call in calls) == {"clip_image": 1, "clip_text": 1, "clip": 1}
    by_hand = sum(flops(repository / call.model / "1" / "model.onnx", dict(call.shapes)) for call in calls)
    assert clip.flops["fp32"] == pytest.approx(by_hand)
    assert clip.flops["fp32"] > 1e9
    iqa = needed(recorder, jpeg(0, 300, 200), PROMPT, "iqa")  # NIQE
    assert (iqa.calls, sum(iqa.flops.values())) == ("no network", 0)


def test_parts_of_sam_clip_are_all_there(repository: Path) -> None:
    parts, segments = where.parts_of_sam_clip(Recorder(repository), samples(1)[0].rgb, PROMPT, rounds=1)
    assert segments > 0
    assert {"segments", "crops: cut", "crops: resize", "crops: image tower", "keywords", "relevance"} <= set(parts)
    assert min(parts.values()) >= 0


def test_both_ways_of_decoding_give_the_same() -> None:
    for width, height in ((640, 480), (333, 517)):
        data = jpeg(1, width, height)
        np.testing.assert_allclose(plain(data), served(data), atol=1e-6)


# --- arithmetic ------------------------------------------------------------------------------------------------------
def test_copies_of_a_request() -> None:
    sizes = {"IMAGE": 100, "PIXELS": 10, "INPUT_IDS": 1, "RGB": 1000}
    hops = {hop.partition(":")[0]: size * count for hop, size, count in overhead.copies(sizes, ("clip",))}
    assert hops == {"IMAGE": 600, "PIXELS": 40, "INPUT_IDS": 4, "RGB": 2000}
    hops = {hop.partition(":")[0]: size * count for hop, size, count in overhead.copies(sizes, ("sam_clip", "iqa"))}
    assert hops == {"IMAGE": 600, "PIXELS": 20, "INPUT_IDS": 2, "RGB": 4000}


def test_differences_of_values() -> None:
    assert largest_difference({"clip": 0.5, "iqa": 3.0}, {"clip": 0.25, "iqa": 3.0}) == 0.25
    assert largest_difference({"clip": 0.5}, {"clip": 0.5, "iqa": 3.0}) == math.inf
    assert largest_difference({}, {"sam_clip": math.nan}) == 0.0  # missing on both sides


def test_upstream_compares_what_is_served() -> None:
    groups = upstream._chosen("", ("aesthetic", "clip", "sam_clip"))
    assert groups == {
        "clip + aesthetic": ("clip", "aesthetic"),
        "sam_clip": ("sam_clip",),
        "all": ("clip", "aesthetic", "sam_clip"),
    }
    with pytest.raises(click.UsageError, match="got iqa; allowed"):
        upstream._chosen("iqa", ("aesthetic", "clip", "sam_clip"))


def test_upstream_and_served_alternate_and_are_paired() -> None:
    calls: list[str] = []

    def side(name: str, value: float) -> upstream.Run:
        def run(metrics: object, photo: object) -> dict[str, float]:
            calls.append(name)
            return {"sam_clip": value}

        return run

    row = upstream._compare("sam_clip", side("s", 0.5), side("u", 0.75), ("sam_clip",), samples(2), rounds=2)
    assert "".join(calls) == "su" + "us" + "us" + "su"
    assert (len(row.served), len(row.upstream), row.difference) == (4, 4, 0.25)
    assert upstream._cells("x", Row([4.0, 8.0], [2.0, 2.0], 0.25))[-2:] == ["3 (2.5-3.5)", "0.2"]


def test_bars_are_as_long_as_their_values() -> None:
    svg = where.bars({"models": {"a <b>": 10.0, "c": 5.0, "none": 0.0}})
    assert "a &lt;b&gt;" in svg and "none" not in svg
    assert f'width="{where.BAR_PX:.1f}"' in svg and f'width="{where.BAR_PX / 2:.1f}"' in svg
