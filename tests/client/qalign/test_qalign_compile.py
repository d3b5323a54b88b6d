"""Compiled and padded, a score is what it is without.

torch's own tracer runs here, without the code generator behind it: that one takes minutes and is torch's to test.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import _qalign_tiny as tiny  # noqa: E402

from imgeval.errors import BuildError  # noqa: E402
from imgeval.metrics.qalign.scorer import COMPILERS, QAlign, QAlignResult, padded_size  # noqa: E402

traced = partial(torch.compile, backend="eager", fullgraph=True, dynamic=False)


def values(results: list[QAlignResult]) -> np.ndarray:
    """(images, 10) logits."""
    return np.array([result.quality_logits + result.aesthetic_logits for result in results])


def test_the_model_is_one_graph_whose_padding_changes_nothing() -> None:
    model, images = tiny.model(), tiny.images()
    plain = QAlign(model, tiny.PROMPTS)
    compiled = QAlign(model, tiny.PROMPTS, max_batch=4, compiler=traced)  # fullgraph: a break would be an error
    for count in (1, 3, 5):
        theirs, ours = values(plain.score(images[:count])), values(compiled.score(images[:count]))
        assert ours.shape == theirs.shape
        print(f"\n{count} images: max {np.abs(ours - theirs).max():.1e}, spread {theirs.std():.2g}")
        assert np.abs(ours - theirs).max() < 1e-5


def test_few_sizes_reach_the_graph() -> None:
    seen: list[int] = []

    def compiler(function):  # type: ignore[no-untyped-def]
        def remembering(pixels, prompts):  # type: ignore[no-untyped-def]
            seen.append(len(pixels))
            return function(pixels, prompts)

        return remembering

    scorer = QAlign(tiny.model(), tiny.PROMPTS, max_batch=4, compiler=compiler)
    for count in (1, 2, 3, 4, 7):
        assert len(scorer.score(tiny.images()[:count])) == count
    assert seen == [1, 2, 4, 4, 4, 4]


def test_sizes_are_powers_of_two_up_to_the_largest() -> None:
    assert [padded_size(count, 8) for count in range(1, 9)] == [1, 2, 4, 4, 8, 8, 8, 8]
    assert [padded_size(count, 6) for count in range(1, 7)] == [1, 2, 4, 4, 6, 6]


def test_an_unknown_mode_is_refused(tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert set(COMPILERS) == {"off", "default", "reduce-overhead"}
    with pytest.raises(BuildError, match="compile is 'fast'; allowed: off"):
        QAlign.from_folder(tmp_path, tiny.PROMPTS, compile="fast")
