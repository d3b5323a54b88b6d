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
        self.cache = serving.cache(args)

    def execute(self, requests):
        return serving.serve("iqa", requests, (RGB.name, SIZE.name), self.answer)

    def answer(self, items):
        values = self.cache.values([serving.rgb(item) for item in items], self.cache.key, self.score)
        return [self.pack(*value) for value in values]

    def score(self, images):
        return [self.score_one(rgb) for rgb in images]

    def score_one(self, rgb):
        """Value, NaN where there is none, and why there is none."""
        try:
            return niqe(luminance(rgb), self.niqe_model), None
        except MetricUnavailable as error:
            return math.nan, str(error)

    def pack(self, value, reason):
        value, explanation = serving.scalar(value), serving.to_json({} if reason is None else {"reason": reason})
        return {
            VALUE.name: value,
            for_combine(VALUE).name: value,
            EXPLANATION.name: explanation,
            for_combine(EXPLANATION).name: explanation,
        }
