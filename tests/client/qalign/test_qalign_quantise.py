"""Weight-only quantisation: exact packing, the error that theory allows, and little drift of the scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import _qalign_tiny as tiny  # noqa: E402
from torch import nn  # noqa: E402

from imgeval.errors import BuildError  # noqa: E402
from imgeval.metrics.qalign.checkpoint import load_model  # noqa: E402
from imgeval.metrics.qalign.config import QAlignConfig, TextConfig  # noqa: E402
from imgeval.metrics.qalign.quantise import Quantisation, QuantisedLinear, pack, quantise_layers, unpack  # noqa: E402
from imgeval.metrics.qalign.scorer import QAlign  # noqa: E402
from imgeval_export.random_weights_qalign import write_random_one_align  # noqa: E402


def test_packing_two_numbers_into_a_byte() -> None:
    codes = torch.arange(-8, 8, dtype=torch.int8).repeat(3, 1)
    assert pack(codes).shape == (3, 8)
    assert pack(codes).dtype == torch.uint8
    for dtype in (torch.int8, torch.bfloat16, torch.float32):
        assert torch.equal(unpack(pack(codes), dtype), codes.to(dtype))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_weight_is_off_by_half_a_step_at_most(bits: int, dtype: torch.dtype) -> None:
    how = Quantisation(bits, group=32)
    weight = torch.randn(48, 96, generator=torch.Generator().manual_seed(3))
    weight[0] = 0
    layer = QuantisedLinear(how)
    layer.store(weight, dtype)
    step = weight.reshape(48, 3, 32).abs().amax(-1, keepdim=True) / how.largest
    # in half precision the scale and the product are rounded as well
    rounding = 0 if dtype == torch.float32 else torch.finfo(dtype).eps * weight.abs().amax()
    error = (layer.weight(dtype).float() - weight).abs().reshape(48, 3, 32)
    assert (error <= step / 2 + rounding + 1e-6).all()
    assert (layer.weight(dtype)[0] == 0).all()
    x = torch.randn(5, 96)
    assert torch.allclose(layer(x), x @ layer.weight(torch.float32).T, atol=1e-5)


def test_stored_sizes() -> None:
    """8 bits: a byte per weight; 4 bits: half of one; a scale per group."""
    for bits, size in ((8, 48 * 96), (4, 48 * 96 // 2)):
        layer = QuantisedLinear(Quantisation(bits, group=32))
        layer.store(torch.randn(48, 96), torch.float16)
        assert layer.codes.nbytes == size
        assert layer.scales.nbytes == 2 * 48 * 3


@pytest.mark.parametrize("bits", [2, 3, 16])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(BuildError, match="4 or 8 bits"):
        Quantisation(bits)


def test_rows_that_do_not_divide_into_groups_are_refused() -> None:
    with pytest.raises(BuildError, match="groups of 128"):
        quantise_layers(tiny.model(), Quantisation(8))


@pytest.mark.parametrize(("bits", "allowed"), [(8, 0.1), (4, 0.5)])
def test_drift_of_the_scores(tmp_path: Path, bits: int, allowed: float) -> None:
    """The mean drift over images is below `allowed` times their spread.

    4 bits round these weights by 8 % each and random ones have no structure that forgives it, so that the errors of 36
    matrices add up to a third of the spread; it says nothing about a trained model.
    """
    how = Quantisation(bits, group=16)
    write_random_one_align(tmp_path, tiny.CONFIG, seed=1, dtype=torch.float32, shard_bytes=200_000)
    while_loading = load_model(tmp_path, quantisation=how)
    after_loading = load_model(tmp_path)
    quantise_layers(after_loading, how)

    quantised = [name for name, module in while_loading.named_modules() if isinstance(module, QuantisedLinear)]
    left = [name for name, module in while_loading.named_modules() if isinstance(module, nn.Linear)]
    assert len(quantised) == 9 * tiny.CONFIG.text.layers  # q, o, two k, two v, three of the MLP
    assert not any(".layers." in name and "vision" not in name and "visual" not in name for name in left)

    exact = QAlign(tiny.model(), tiny.PROMPTS).score(tiny.images())
    got = QAlign(while_loading, tiny.PROMPTS).score(tiny.images())
    same = QAlign(after_loading, tiny.PROMPTS).score(tiny.images())
    assert [each.quality for each in got] == pytest.approx([each.quality for each in same], abs=1e-4)
    drift = np.abs([(a.quality - b.quality, a.aesthetic - b.aesthetic) for a, b in zip(got, exact, strict=True)])
    spread = np.std([result.quality for result in exact])
    print(f"int{bits}: max {drift.max():.2g} mean {drift.mean():.2g} spread {spread:.2g}")
    assert 0 < drift.mean() < allowed * spread


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_from_folder(tmp_path: Path, precision: str) -> None:
    """The published sizes divide into groups of 128, and so do these."""
    text = TextConfig(vocabulary=120, width=128, layers=2, heads=4, mlp=256)
    write_random_one_align(tmp_path, QAlignConfig(tiny.CONFIG.vision, tiny.CONFIG.abstractor, text))
    scorer = QAlign.from_folder(tmp_path, tiny.PROMPTS, precision=precision)  # type: ignore[arg-type]
    assert scorer.model.dtype == torch.bfloat16
    assert all(1 <= result.quality <= 5 for result in scorer.score(tiny.images()[:2]))
