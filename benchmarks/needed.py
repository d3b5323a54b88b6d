"""What a metric needs for one image: the calls of networks that it makes, and their FLOPs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.bare import Bare
from benchmarks.flops import flops

QALIGN_TOKENS = ((16, 14), (18, 16))  # before and after the image, for quality and for aesthetics


@dataclass(frozen=True)
class Call:
    """One call of a network. `share`: of all masks, how many SAM's decoder drew; 1 for the other networks."""

    model: str
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    share: float = 1.0


class Recorder(Bare):
    """A `Bare` that keeps what it was asked to compute, and counts what torch multiplies."""

    def __init__(self, repository: Path) -> None:
        super().__init__(repository)
        self.calls: list[Call] = []

    def run_all(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        outputs = super().run_all(model, inputs)
        shapes = tuple((name, array.shape) for name, array in inputs.items())
        share = len(outputs["MASKS"]) / outputs["IOU"].size if "MASKS" in outputs else 1.0
        self.calls.append(Call(model, shapes, share))
        return outputs


@dataclass(frozen=True)
class Needed:
    """What one metric computes for one image."""

    calls: str  # for people: "1 sam_encoder, 16 sam_decoder"
    flops: Mapping[str, float]  # by precision


def needed(recorder: Recorder, image: bytes, prompt: str, metric: str) -> Needed:
    """Compute a metric of one image and count. A metric without a network of its own needs nothing."""
    recorder.calls.clear()
    by_torch = _torch_flops(recorder, image, prompt, metric)
    by_precision: Counter[str] = Counter()
    for call, count in Counter(recorder.calls).items():
        path = recorder.folder(call.model) / "model.onnx"
        by_precision[precision_of(recorder, call.model)] += count * flops(path, dict(call.shapes), call.share)  # type: ignore[assignment]
    if by_torch:
        by_precision["fp32"] += by_torch  # type: ignore[assignment]
    counts = Counter(_items(call) for call in recorder.calls)
    named = [f"{count} x {model}" for model, count in counts.items() if not model.startswith("combine")]
    return Needed(", ".join(named + ["torch"] * bool(by_torch)) or "no network", dict(by_precision))


def _items(call: Call) -> str:
    """The network, and how many items it got at once where that is more than one."""
    first = {"sam_decoder": "POINT_TOKENS"}.get(call.model, call.shapes[0][0])
    count = dict(call.shapes)[first][0]
    return f"{call.model} of {count}" if count > 1 else call.model


def _torch_flops(recorder: Recorder, image: bytes, prompt: str, metric: str) -> float:
    """Score, and count what torch multiplies meanwhile: only IQA-PyTorch does so."""
    if metric != "iqa" or "metric" not in recorder.iqa_settings():
        recorder.score(image, prompt, (metric,))
        return 0.0
    from torch.utils.flop_counter import FlopCounterMode

    recorder.score(image, prompt, (metric,))  # loads it
    with FlopCounterMode(display=False) as counter:
        recorder.score(image, prompt, (metric,))
    return float(counter.get_total_flops())


def precision_of(bare: Bare, model: str) -> str:
    """What a network's large products are computed in: "fp32", "bf16" or "int8"."""
    parameters = bare.parameters(model)
    if "activation_group" in parameters:
        return "int8"
    if parameters.get("inference_precision") == "bf16":
        return "bf16"
    import onnx

    path = bare.folder(model) / "model.onnx"
    types = {tensor.data_type for tensor in onnx.load(path, load_external_data=False).graph.initializer}
    return "bf16" if onnx.TensorProto.BFLOAT16 in types else "fp32"


def every_mask() -> NDArray[np.float32]:
    """MIN_IOU with which SAM's decoder draws all masks, which is what `flops` counts by default."""
    return np.array([-np.inf], np.float32)


def qalign_flops() -> float:
    """FLOPs of both of Q-Align's tasks for one image, at the published sizes: counted without weights, by torch."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from imgeval.metrics.qalign.config import QAlignConfig
    from imgeval.metrics.qalign.model import QAlignModel
    from imgeval.metrics.qalign.prompts import PromptIds, TaskPrompt

    # Only the lengths count; those of the published prompts are about these, and a token more is 1 % more.
    quality, aesthetics = (TaskPrompt((1, *[2] * (before - 1)), (2,) * after) for before, after in QALIGN_TOKENS)
    config = QAlignConfig()
    side = config.vision.image_px
    with torch.device("meta"):
        model = QAlignModel(config).eval().requires_grad_(False)
        prompts = model.encode(PromptIds(quality, aesthetics, (2, 3, 4, 5, 6)))
        with FlopCounterMode(display=False) as counter:
            model.logits(torch.empty(1, 3, side, side), prompts)
    return float(counter.get_total_flops())
