"""IMAGE and PROMPT -> what the metric models take."""

from imgeval import serving
from imgeval.contract import IMAGE, INPUT_DETAILS, INPUT_IDS, PIXELS, PROMPT, RGB, SIZE, for_combine
from imgeval.errors import ImgevalError
from imgeval.image import PixelSpec
from imgeval.preprocess import preprocess
from imgeval.text import TextTokenizer


class TritonPythonModel:
    def initialize(self, args):
        settings = serving.settings(args)
        self.map = serving.thread_map(args)
        self.pixel_spec = PixelSpec(**settings["pixels"])
        self.tokenizer = TextTokenizer.load(serving.model_dir(args), settings["tokenizer"])

    def execute(self, requests):
        return serving.serve("preprocess", requests, (IMAGE.name, PROMPT.name), self.answer)

    def answer(self, items):
        return list(self.map(self.answer_one, items))

    def answer_one(self, item):
        try:
            done = preprocess(item[IMAGE.name][0], item[PROMPT.name][0], self.pixel_spec, self.tokenizer)
        except ImgevalError as error:
            return error
        details = serving.to_json(done.details)
        return {
            PIXELS.name: done.pixels,
            RGB.name: done.rgb.reshape(-1),
            SIZE.name: serving.size(done.rgb),
            INPUT_IDS.name: done.input_ids,
            INPUT_DETAILS.name: details,
            for_combine(INPUT_DETAILS).name: details,
        }
