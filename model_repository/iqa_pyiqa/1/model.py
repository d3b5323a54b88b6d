"""Image -> a no-reference metric of IQA-PyTorch, at the image's own resolution."""

import math

from imgeval import serving
from imgeval.contract import METRIC_DETAILS, RGB, SIZE, for_combine, metric_tensor
from imgeval.metrics.pyiqa_metric import DEFAULT_METRIC, PyiqaMetric

VALUE = metric_tensor("iqa")
EXPLANATION = METRIC_DETAILS["iqa"]


class TritonPythonModel:
    def initialize(self, args):
        settings = serving.settings(args)
        serving.set_torch_threads(args)
        # Of other metrics pyiqa knows where the weights are, and gets them by itself.
        own = settings["metric"] == DEFAULT_METRIC
        checkpoint = serving.model_dir(args) / settings["checkpoint"] if own else None
        self.metric = PyiqaMetric(settings["metric"], checkpoint, serving.device(args))
        self.cache = serving.cache(args)

    def execute(self, requests):
        return serving.serve("iqa", requests, (RGB.name, SIZE.name), self.answer)

    def answer(self, items):
        values = self.cache.values([serving.rgb(item) for item in items], self.cache.key, self.score)
        return [self.pack(value) for value in values]

    def score(self, images):
        return [self.metric.score(rgb) for rgb in images]

    def pack(self, value):
        finite = math.isfinite(value)
        explanation = serving.to_json({} if finite else {"reason": f"the metric gave {value} for this image"})
        value = serving.scalar(value if finite else None)
        return {
            VALUE.name: value,
            for_combine(VALUE).name: value,
            EXPLANATION.name: explanation,
            for_combine(EXPLANATION).name: explanation,
        }
