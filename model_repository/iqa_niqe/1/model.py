"""Image -> NIQE, a no-reference quality; lower is better."""

import math

from imgeval import serving
from imgeval.contract import METRIC_DETAILS, RGB, SIZE, for_combine, metric_tensor
from imgeval.metrics.niqe import load_model, luminance, niqe
from imgeval.metrics.unavailable import MetricUnavailable

VALUE = metric_tensor("iqa")
EXPLANATION = METRIC_DETAILS["iqa"]


class TritonPythonModel:
    def initialize(self, args):
        self.niqe_model = load_model(serving.model_dir(args) / "niqe.npz")

    def execute(self, requests):
        return serving.serve("iqa", requests, (RGB.name, SIZE.name), self.answer)

    def answer(self, items):
        return [self.answer_one(item) for item in items]

    def answer_one(self, item):
        try:
            value, explanation = niqe(luminance(serving.rgb(item)), self.niqe_model), {}
        except MetricUnavailable as error:
            value, explanation = math.nan, {"reason": str(error)}
        value, explanation = serving.scalar(value), serving.to_json(explanation)
        return {
            VALUE.name: value,
            for_combine(VALUE).name: value,
            EXPLANATION.name: explanation,
            for_combine(EXPLANATION).name: explanation,
        }
