"""The model equals pyiqa's port of mPLUG-Owl2 on the same weights, step by step and in the score."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import _qalign_tiny as tiny  # noqa: E402
from _qalign_upstream import Upstream  # noqa: E402
from torch import Tensor  # noqa: E402

from imgeval.metrics.qalign import attention  # noqa: E402
from imgeval.metrics.qalign.image import preprocess  # noqa: E402
from imgeval.metrics.qalign.model import QAlignModel  # noqa: E402
from imgeval.metrics.qalign.prompts import PromptIds, TaskPrompt  # noqa: E402
from imgeval.metrics.qalign.scorer import QAlign  # noqa: E402
from imgeval_export.random_weights_qalign import random_state, state_shapes  # noqa: E402

SCORE_TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def ours() -> QAlignModel:
    return tiny.model()


@pytest.fixture(scope="module", params=["eager", "sdpa"])
def upstream(request: pytest.FixtureRequest) -> Upstream:
    return Upstream(tiny.CONFIG, random_state(tiny.CONFIG, seed=1), request.param)


@pytest.fixture(scope="module")
def pixels() -> Tensor:
    return torch.from_numpy(np.stack([preprocess(image, tiny.CONFIG.vision.image_px) for image in tiny.images()]))


def compare(what: str, ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    """Largest difference within the tolerance, and the tolerance below a tenth of the spread over the images."""
    difference = (ours - theirs).abs()
    spread = theirs.std(dim=0).min() if theirs.ndim < 3 else theirs.std(dim=0).median()
    print(f"{what}: max {difference.max():.1e} mean {difference.mean():.1e} spread {spread:.2g}")
    assert tolerance < spread / 10, f"{what} does not vary enough for the comparison to mean anything"
    assert difference.max() < tolerance


def test_published_names_and_shapes(upstream: Upstream) -> None:
    assert state_shapes(tiny.CONFIG) == upstream.keys


def test_vision_tokens(ours: QAlignModel, upstream: Upstream, pixels: Tensor) -> None:
    with torch.inference_mode():
        compare("vision tokens", ours.model.vision_model(pixels), upstream.vision(pixels), 1e-4)


def test_visual_tokens(ours: QAlignModel, upstream: Upstream, pixels: Tensor) -> None:
    with torch.inference_mode():
        got, expected = ours.visual_tokens(pixels), upstream.abstractor(upstream.vision(pixels))
    compare("abstractor", got[:, :-1], expected[:, :-1], 1e-4)
    assert torch.equal(got[:, -1], expected[:, -1])  # the end token, the same for every image


def test_logits_and_scores(ours: QAlignModel, upstream: Upstream, pixels: Tensor) -> None:
    got = ours.logits(pixels, ours.encode(tiny.PROMPTS))  # (N, 2, 5)
    for at, task in enumerate(tiny.PROMPTS.tasks):
        expected = upstream.logits(pixels, task, tiny.PROMPTS.levels)
        compare(f"logits {at}", got[:, at], expected, 1e-3)
        compare(f"scores {at}", tiny.score_of(got[:, at]), tiny.score_of(expected), SCORE_TOLERANCE)


@pytest.mark.parametrize(
    "what",
    ["no BOS", "last token missing", "norms swapped", "keys and values swapped"],
)
def test_the_comparison_can_fail(ours: QAlignModel, upstream: Upstream, pixels: Tensor, what: str) -> None:
    """Mistakes that are easily made show up as many times the tolerance."""
    state = random_state(tiny.CONFIG, seed=1)
    prompt = tiny.PROMPTS.quality
    if what == "no BOS":
        prompt = TaskPrompt(prompt.before, prompt.after)
        object.__setattr__(prompt, "before", prompt.before[1:])  # past the check in TaskPrompt
    elif what == "last token missing":
        prompt = TaskPrompt(prompt.before, prompt.after[:-1])
    else:
        part = "layernorm" if what == "norms swapped" else "_proj"
        for name in [name for name in state if ".multiway.0." in name and part in name]:
            other = name.replace("multiway.0", "multiway.1")
            state[name], state[other] = state[other], state[name]
    wrong = QAlignModel(tiny.CONFIG)
    wrong.load_state_dict(state)
    wrong.requires_grad_(False)
    got = wrong.logits(pixels, wrong.encode(PromptIds(prompt, tiny.PROMPTS.aesthetics, tiny.PROMPTS.levels)))[:, 0]
    expected = upstream.logits(pixels, tiny.PROMPTS.quality, tiny.PROMPTS.levels)
    difference = (tiny.score_of(got) - tiny.score_of(expected)).abs().max()
    print(f"{what}: {difference:.2g}")
    assert difference > 20 * SCORE_TOLERANCE


def test_a_batch_equals_its_images_one_by_one(ours: QAlignModel) -> None:
    scorer = QAlign(ours, tiny.PROMPTS)
    images = tiny.images()[:5]
    assert len({image.shape for image in images}) == 5
    together = scorer.score(images)
    for image, result in zip(images, together, strict=True):
        (alone,) = scorer.score([image])
        assert np.allclose([alone.quality, alone.aesthetic], [result.quality, result.aesthetic], rtol=0, atol=1e-5)
        assert np.allclose(alone.quality_logits, result.quality_logits, rtol=0, atol=1e-5)
        assert np.allclose(alone.aesthetic_logits, result.aesthetic_logits, rtol=0, atol=1e-5)


def test_more_images_than_fit_in_a_batch(ours: QAlignModel) -> None:
    images = tiny.images()[:5]
    whole, cut = QAlign(ours, tiny.PROMPTS).score(images), QAlign(ours, tiny.PROMPTS, max_batch=2).score(images)
    assert np.allclose([r.quality for r in whole], [r.quality for r in cut], rtol=0, atol=1e-5)
    assert QAlign(ours, tiny.PROMPTS).score([]) == []


def test_one_prompt_does_not_change_the_other(ours: QAlignModel, pixels: Tensor) -> None:
    """Filling up to the longer prompt must not be seen: the same prompt twice, and with one much longer."""
    quality = tiny.PROMPTS.quality
    longer = TaskPrompt((1, *range(20, 60)), tuple(range(20, 90)))
    for other in (quality, longer):
        for prompts in (PromptIds(quality, other, (3, 4, 5, 6, 7)), PromptIds(other, quality, (3, 4, 5, 6, 7))):
            at = prompts.tasks.index(quality)
            got = ours.logits(pixels, ours.encode(prompts))[:, at]
            alone = ours.logits(pixels, ours.encode(PromptIds(quality, quality, (3, 4, 5, 6, 7))))[:, 0]
            assert (got - alone).abs().max() < 1e-5


def test_result_follows_from_its_logits(ours: QAlignModel) -> None:
    results = QAlign(ours, tiny.PROMPTS).score(tiny.images())
    for result in results:
        assert 1 <= result.quality <= 5
        assert 1 <= result.aesthetic <= 5
        assert sum(result.quality_probabilities) == pytest.approx(1)
        assert result.aesthetic == pytest.approx(float(tiny.score_of(torch.tensor(result.aesthetic_logits))))
    assert np.std([result.quality for result in results]) > 0.05


def test_flash_attention_is_only_asked_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU, and under a mask anywhere, torch computes."""

    def refuse() -> None:
        raise AssertionError("flash-attn was looked up")

    monkeypatch.setattr(attention, "_flash", refuse)
    x = torch.randn(2, 3, 4, 8, dtype=torch.bfloat16)
    assert attention.attend(x, x, x).shape == (2, 3, 32)
    assert attention.attend(x, x, x, torch.ones(3, 3, dtype=torch.bool).tril()).shape == (2, 3, 32)


def test_pixels_of_another_size_are_refused(ours: QAlignModel) -> None:
    with pytest.raises(ValueError, match=r"\(1, 3, 56, 56\)"):
        ours.visual_tokens(torch.zeros(1, 3, 56, 56))
