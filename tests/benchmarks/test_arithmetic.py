"""The benchmarks' arithmetic: medians, ratios, FLOPs, sections of the document. Nothing here depends on a speed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import document
from benchmarks.__main__ import NAMES, main
from benchmarks.flops import flops
from benchmarks.overhead import run_load
from benchmarks.serving import ModelStatistics
from benchmarks.timing import Times, in_turns, ratio
from imgeval_export.graph import Graph

seconds = st.lists(st.floats(0.001, 1000), min_size=1, max_size=50)


@given(seconds, st.floats(0, 100))
def test_percentiles_are_numpys(values: list[float], percent: float) -> None:
    assert Times(tuple(values)).percentile(percent) == pytest.approx(np.percentile(values, percent))


def test_a_ratio_is_that_of_the_medians_with_quartiles_of_the_rounds() -> None:
    assert ratio([2.0, 4.0, 6.0], [1.0, 2.0, 2.0]) == "2 (2-2.5)"


def test_sides_are_called_in_turns_and_the_order_changes() -> None:
    calls: list[str] = []
    times = in_turns({name: lambda name=name: calls.append(name) for name in "ab"}, 3)  # type: ignore[misc]
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"  # the first two do not count
    assert {name: len(each.seconds) for name, each in times.items()} == {"a": 3, "b": 3}


def test_a_load_makes_every_request() -> None:
    calls: list[int] = []
    load = run_load(lambda: calls.append(1), concurrency=4, count=10, cpu=lambda: 0.0)
    assert len(calls) == len(load.latencies.seconds) == 10
    assert load.throughput == pytest.approx(10 / load.seconds)


def test_flops_of_products_and_convolutions(tmp_path: Path) -> None:
    graph = Graph("known")
    x = graph.input("X", ("B", 3, 8, 8))
    y = graph.node("Conv", x, graph.constant("k", np.ones((4, 3, 3, 3))), kernel_shape=[3, 3])  # (B, 4, 6, 6)
    y = graph.node("Reshape", y, graph.integers(0, 4, 36))
    graph.node("MatMul", y, graph.constant("w", np.ones((36, 10))), output="Y")  # (B, 4, 10)
    graph.output("Y", ("B", 4, 10))
    onnx.save(graph.model(), tmp_path / "model.onnx")
    per_image = 2 * (4 * 6 * 6) * (3 * 3 * 3) + 2 * (4 * 10) * 36
    for batch in (1, 5):
        assert flops(tmp_path / "model.onnx", {"X": (batch, 3, 8, 8)}) == batch * per_image


def test_what_depends_on_values_counts_by_its_share(tmp_path: Path) -> None:
    graph = Graph("wanted rows")
    x = graph.input("X", ("B", 4))
    first = graph.node("MatMul", x, graph.constant("w", np.ones((4, 6))))  # (B, 6), always computed
    positive = graph.node("Greater", graph.node("ReduceSum", x, graph.integers(1), keepdims=0), graph.number(0))
    rows = graph.node("Compress", first, positive, axis=0)  # (b, 6), b <= B
    graph.node("MatMul", rows, graph.constant("v", np.ones((6, 5))), output="Y")
    graph.output("Y", ("b", 5))
    onnx.save(graph.model(), tmp_path / "model.onnx")
    always, wanted = 2 * 3 * 4 * 6, 2 * 3 * 6 * 5
    for share in (0.0, 0.5, 1.0):
        assert flops(tmp_path / "model.onnx", {"X": (3, 4)}, share) == always + share * wanted


def test_statistics_are_added_and_subtracted_field_by_field() -> None:
    after, before = ModelStatistics(5, 3, 10, 1, 20, 2), ModelStatistics(2, 1, 4, 0.5, 5, 1)
    assert after - before == ModelStatistics(3, 2, 6, 0.5, 15, 1)
    assert (after - before) + before == after


def test_a_section_is_added_and_then_replaced() -> None:
    first = document.section("limit", "python -m benchmarks limit", "a machine\nof two lines", "one \\1")
    text = document.put("# Benchmarks\n\nWords.\n", "limit", first)
    text = document.put(text, "start", document.section("start", "c", "m", "other"))
    second = document.section("limit", "python -m benchmarks limit", "m", "two")
    changed = document.put(text, "limit", second)
    assert "one" not in changed and "two" in changed and "other" in changed and "Words." in changed
    assert changed.count("<!-- limit -->") == changed.count("<!-- /limit -->") == 1
    assert document.put(changed, "limit", second) == changed


def test_tables_are_aligned() -> None:
    lines = document.table(["name", "ms"], [["a", 1], ["longer", 22]]).splitlines()
    assert lines == ["| name   | ms |", "|--------|---:|", "| a      |  1 |", "| longer | 22 |"]


@pytest.mark.parametrize("name", NAMES)
def test_every_benchmark_says_how_it_is_used(name: str) -> None:
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"Example: python -m benchmarks {name}" in result.output
