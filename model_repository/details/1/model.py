"""Raw metric values and what their steps say -> DETAILS. Also callable alone, with some of the metrics."""

import json

from imgeval import serving
from imgeval.contract import DETAILS, INPUT_DETAILS, METRIC_DETAILS, METRIC_NAMES, for_combine, metric_tensor
from imgeval.details import Card, assemble

INPUTS = (
    for_combine(INPUT_DETAILS).name,
    *(for_combine(metric_tensor(name)).name for name in METRIC_NAMES),
    *(for_combine(tensor).name for tensor in METRIC_DETAILS.values()),
)


class TritonPythonModel:
    def initialize(self, args):
        self.card = Card.read(serving.model_dir(args) / "card.json")

    def execute(self, requests):
        return serving.serve("details", requests, INPUTS, self.answer)

    def answer(self, items):
        return [self.answer_one(item) for item in items]

    def answer_one(self, item):
        raw = {name: item.get(for_combine(metric_tensor(name)).name) for name in METRIC_NAMES}
        said = {name: item.get(for_combine(tensor).name) for name, tensor in METRIC_DETAILS.items()}
        details = assemble(
            self.card,
            {name: float(value[0]) for name, value in raw.items() if value is not None},
            json.loads(item[for_combine(INPUT_DETAILS).name][0]),
            {name: json.loads(value[0]) for name, value in said.items() if value is not None},
        )
        return {DETAILS.name: serving.to_json(details)}
