"""Image -> Q-Align's quality and aesthetics, both from one pass over the image."""

from imgeval import serving
from imgeval.contract import RGB, SIZE, for_combine, metric_tensor
from imgeval.metrics.qalign.prompts import PromptIds
from imgeval.metrics.qalign.scorer import QAlign

QUALITY, AESTHETIC = metric_tensor("qalign_quality"), metric_tensor("qalign_aesthetic")


class TritonPythonModel:
    def initialize(self, args):
        settings, folder = serving.settings(args), serving.model_dir(args)
        serving.set_torch_threads(args)
        self.scorer = QAlign.from_folder(
            folder / settings["weights"],
            PromptIds.read(folder / "prompts.json"),
            device=serving.device(args),
            precision=settings["precision"],
            compile=settings["compile"],
        )
        self.cache = serving.cache(args)

    def execute(self, requests):
        return serving.serve("qalign", requests, (RGB.name, SIZE.name), self.answer)

    def answer(self, items):
        # torch rounds a little differently in batches of other sizes: a kept value is that of its first batch.
        images = [serving.rgb(item) for item in items]
        return [self.pack(result) for result in self.cache.values(images, self.cache.key, self.scorer.score)]

    def pack(self, result):
        quality, aesthetic = serving.scalar(result.quality), serving.scalar(result.aesthetic)
        return {
            QUALITY.name: quality,
            for_combine(QUALITY).name: quality,
            AESTHETIC.name: aesthetic,
            for_combine(AESTHETIC).name: aesthetic,
        }
