"""`--precision`: in what numbers the large networks compute, a choice with a known price (docs/verify.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import onnx

from imgeval.errors import InvalidInputError
from imgeval_export.configs import Model
from imgeval_export.graph import save_model
from imgeval_export.half import bfloat16_products, float16_products
from imgeval_export.int8 import ACTIVATION_GROUP, int8_weights
from imgeval_export.profile import Profile

EXACT = "fp32"
CONVERTERS: dict[str, Callable[[onnx.ModelProto], onnx.ModelProto]] = {
    "bf16": bfloat16_products,
    "int8": lambda model: bfloat16_products(int8_weights(model)),  # attention multiplies no weights
    "fp16": float16_products,
}
PRECISIONS = (EXACT, "bf16", "int8")  # on CPUs, from the exact one on; gpu.py has those of GPUs

# What a precision without a model's name is for. The text tower is small, and it alone would double clip's drift; the
# model that places points for SAM needs float32.
LARGE_MODELS = ("clip_image", "sam_encoder", "sam_decoder")
CHANGEABLE_MODELS = (*LARGE_MODELS, "clip_text")

ENGINE_PRECISIONS = (EXACT, "bf16")  # what the engine rounds to by itself


def with_precision(profile: Profile, choices: Sequence[str]) -> Profile:
    """The profile with networks computing as chosen: "bf16" for all large ones, "sam_decoder=fp32" for one; last wins.

    A profile without the large networks has those that the engine rounds to choose for.

    Raises:
        InvalidInputError: a precision or a model that the profile does not have.
    """
    if {model.name for model in profile.models}.issuperset(LARGE_MODELS):
        by_model = chosen(choices)
    else:
        by_model = chosen(
            choices, ENGINE_PRECISIONS, [model.name for model in profile.models if model.rounded_by_engine]
        )
    changed = {name: precision for name, precision in by_model.items() if precision != EXACT}
    models = (_in(model, changed[model.name]) if model.name in changed else model for model in profile.models)
    return replace(profile, models=tuple(models))


def chosen(
    choices: Sequence[str], precisions: Sequence[str] = PRECISIONS, models: Sequence[str] = CHANGEABLE_MODELS
) -> dict[str, str]:
    """Precision by model: "bf16" is for all large ones, "sam_decoder=fp32" for one; the last wins.

    Raises:
        InvalidInputError: a precision that is none of `precisions`, or a model that is none of `models`.
    """
    by_model: dict[str, str] = {}
    for choice in choices:
        name, _, precision = choice.rpartition("=")
        if precision not in precisions or name not in ("", *models):
            raise InvalidInputError(
                "precision",
                f"got {choice!r}; allowed: {', '.join(precisions)}, or MODEL=PRECISION with a model of "
                f"{', '.join(models)}",
            )
        by_model |= dict.fromkeys([name] if name else set(LARGE_MODELS).intersection(models), precision)
    return by_model


def _in(model: Model, precision: str) -> Model:
    engine = {"activation_group": str(ACTIVATION_GROUP)} if precision == "int8" else {}  # the embedded server's
    if model.rounded_by_engine:
        engine = {"inference_precision": "bf16"}
    return replace(model, precision=precision, parameters={**model.parameters, **engine})


def lowest_precision(profile: Profile) -> str:
    """The one furthest from float32 that a network of the profile computes in."""
    return max((model.precision for model in profile.models), key=PRECISIONS.index)


def convert(path: Path, model: Model) -> None:
    """Rewrite the float32 file at `path` as the model's precision wants it."""
    if model.precision == EXACT or (model.device == "cpu" and model.rounded_by_engine):
        return
    converted = CONVERTERS[model.precision](onnx.load(path))
    path.with_name(path.name + ".data").unlink(missing_ok=True)
    save_model(converted, path)
