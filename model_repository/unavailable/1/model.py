"""NaN for every metric that this repository has no model for; `card.json` of `details` says why."""

import math

from imgeval import serving
from imgeval.contract import SIZE, for_combine, metric_tensor


class TritonPythonModel:
    def initialize(self, args):
        tensors = [metric_tensor(name) for name in serving.settings(args)["metrics"]]
        self.outputs = [each.name for tensor in tensors for each in (tensor, for_combine(tensor))]

    def execute(self, requests):
        return serving.serve("unavailable", requests, (SIZE.name,), self.answer)

    def answer(self, items):
        return [{name: serving.scalar(math.nan) for name in self.outputs} for _ in items]
