"""NaN for every metric that this repository has no model for; `card.json` of `details` says why."""

import math

from imgeval import serving
from imgeval.contract import METRIC_DETAILS, SIZE, for_combine, metric_tensor


class TritonPythonModel:
    def initialize(self, args):
        metrics = serving.settings(args)["metrics"]
        values = [metric_tensor(name) for name in metrics]
        explanations = [METRIC_DETAILS[name] for name in metrics if name in METRIC_DETAILS]
        self.answers = {}
        for tensors, content in ((values, serving.scalar(math.nan)), (explanations, serving.to_json({}))):
            self.answers |= {each.name: content for tensor in tensors for each in (tensor, for_combine(tensor))}

    def execute(self, requests):
        return serving.serve("unavailable", requests, (SIZE.name,), self.answer)

    def answer(self, items):
        return [self.answers for _ in items]
