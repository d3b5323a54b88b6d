"""Image and PROMPT -> relevance of the image's segments to the prompt's keywords."""

from functools import partial

from imgeval import serving
from imgeval.contract import METRIC_DETAILS, PROMPT, RGB, SIZE, for_combine, metric_tensor
from imgeval.image import PixelSpec
from imgeval.metrics.sam_clip import SamClip
from imgeval.metrics.segmenters import segmenter
from imgeval.text import TextTokenizer

VALUE = metric_tensor("sam_clip")
EXPLANATION = METRIC_DETAILS["sam_clip"]


def encode(call, pixels):
    return call("sam_encoder", {"PIXELS": pixels}, ["EMBEDDING"])["EMBEDDING"]


def decode(call, embedding, points, min_iou):
    tokens = call("sam_points", {"POINTS": points}, ["POINT_TOKENS"])
    inputs = {"EMBEDDING": embedding, **tokens, "MIN_IOU": serving.scalar(min_iou)}
    answer = call("sam_decoder", inputs, ["MASKS", "IOU"])
    return answer["MASKS"], answer["IOU"]


class TritonPythonModel:
    def initialize(self, args):
        settings, folder = serving.settings(args), serving.model_dir(args)
        call = serving.CALLS[settings["segments"].get("arrays", "numpy")]
        models = partial(encode, call), partial(decode, call)
        self.sam_clip = SamClip(
            segment=segmenter(settings["segmenter"], settings["segments"], *models, serving.device(args)),
            stop_words=frozenset((folder / "stop_words.txt").read_text(encoding="utf-8").split()),
            keyword_tokenizer=TextTokenizer.load(folder, settings["keyword_tokenizer"]),
            embed_keywords=serving.RemoteModel(**settings["keyword_model"]),
            text_tokenizer=TextTokenizer.load(folder, settings["text_tokenizer"]),
            embed_texts=serving.RemoteModel(**settings["text_model"]),
            pixel_spec=PixelSpec(**settings["pixels"]),
            embed_images=serving.RemoteModel(**settings["image_model"]),
            cache=serving.cache(args),
            map=serving.thread_map(args),
        )

    def execute(self, requests):
        return serving.serve("sam_clip", requests, (RGB.name, SIZE.name, PROMPT.name), self.answer)

    def answer(self, items):
        results = self.sam_clip([(serving.rgb(item), item[PROMPT.name][0].decode("utf-8")) for item in items])
        return [self.pack(result) for result in results]

    def pack(self, result):
        value, explanation = serving.scalar(result.value), serving.to_json(result.details)
        return {
            VALUE.name: value,
            for_combine(VALUE).name: value,
            EXPLANATION.name: explanation,
            for_combine(EXPLANATION).name: explanation,
        }
