"""NaN for every metric that this repository has no model for; `card.json` of `combine` says why."""

import math

from imgeval import serving
from imgeval.contract import SIZE, metric_tensor


class TritonPythonModel:
    def initialize(self, args):
        self.outputs = [metric_tensor(name).name for name in serving.settings(args)["metrics"]]

    def execute(self, requests):
        return serving.serve("unavailable", requests, (SIZE.name,), self.answer)

    def answer(self, items):
        return [{name: serving.scalar(math.nan) for name in self.outputs} for _ in items]
