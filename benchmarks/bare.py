"""The models of a repository in one process, without Triton: what serving is compared with.

The same files, engine and options as in the embedded server, called one after another by the same library functions
that the server's steps call.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2 as pb

from imgeval.contract import (
    EMBEDDING,
    IMAGE_EMBEDDING,
    INPUT_IDS,
    METRIC_NAMES,
    PIXELS,
    TEXT_EMBEDDING,
    for_combine,
    metric_tensor,
)
from imgeval.embedded.engine import compile_model
from imgeval.image import PixelSpec
from imgeval.metrics.sam_clip import SamClip
from imgeval.metrics.segmenters import segmenter
from imgeval.preprocess import Preprocessed, preprocess
from imgeval.text import TextTokenizer


class Bare:
    """The models of a repository; what is not used is not loaded. May be called from several threads."""

    def __init__(self, repository: Path) -> None:
        self._repository = repository
        self._compiled: dict[str, Any] = {}
        self._own = threading.local()  # each thread has requests of its own
        settings = self.settings("preprocess")
        self._pixel_spec = PixelSpec(**settings["pixels"])
        self._tokenizer = TextTokenizer.load(self.folder("preprocess"), settings["tokenizer"])
        self._steps: dict[str, Any] = {}

    def folder(self, model: str) -> Path:
        return self._repository / model / "1"

    def settings(self, model: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.folder(model) / "settings.json").read_text(encoding="utf-8"))
        return content

    def parameters(self, model: str) -> dict[str, str]:
        """The parameters of a model's configuration."""
        config = text_format.Parse(
            (self._repository / model / "config.pbtxt").read_text(encoding="utf-8"), pb.ModelConfig()
        )
        return {name: value.string_value for name, value in config.parameters.items()}

    def run(self, model: str, inputs: Mapping[str, NDArray[Any]], output: str) -> NDArray[Any]:
        """One output of a network."""
        return self.run_all(model, inputs)[output]

    def run_all(self, model: str, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Every output of a network."""
        if model not in self._compiled:
            self._compiled[model] = compile_model(self.folder(model) / "model.onnx", self.parameters(model))
        requests = self._own.__dict__
        if model not in requests:
            requests[model] = self._compiled[model].create_infer_request()
        requests[model].infer(dict(inputs), share_inputs=True)
        return {
            port.get_any_name(): requests[model].get_tensor(port).data.copy() for port in self._compiled[model].outputs
        }

    def preprocess(self, image: bytes, prompt: str) -> Preprocessed:
        return preprocess(image, prompt.encode(), self._pixel_spec, self._tokenizer)

    def score(self, image: bytes, prompt: str, metrics: Sequence[str]) -> dict[str, float]:
        """Raw values, as a request for these metrics gives them."""
        done = self.preprocess(image, prompt)
        values: dict[str, float] = {}
        if {"clip", "aesthetic"} & set(metrics):
            values |= self._towers(done, metrics)
        if "sam_clip" in metrics:
            values["sam_clip"] = self._step("sam_clip", self.sam_clip)([(done.rgb, prompt)])[0].value
        if "iqa" in metrics:
            values["iqa"] = self._step("iqa", self._make_iqa)(done.rgb)
        inputs = {
            for_combine(metric_tensor(name)).name: np.array([[values.get(name, math.nan)]], np.float32)
            for name in METRIC_NAMES
        }
        return {**values, "score": float(self.run("combine", inputs, "SCORE").item())}

    def _towers(self, done: Preprocessed, metrics: Sequence[str]) -> dict[str, float]:
        image = self.run("clip_image", {PIXELS.name: done.pixels[None]}, EMBEDDING.name)
        values = {}
        if "clip" in metrics:
            text = self.run("clip_text", {INPUT_IDS.name: done.input_ids[None]}, EMBEDDING.name)
            both = {IMAGE_EMBEDDING.name: image, TEXT_EMBEDDING.name: text}
            values["clip"] = float(self.run("clip", both, metric_tensor("clip").name).item())
        if "aesthetic" in metrics:
            head = self.run("aesthetic", {IMAGE_EMBEDDING.name: image}, metric_tensor("aesthetic").name)
            values["aesthetic"] = float(head.item())
        return values

    def _step(self, name: str, make: Callable[[], Any]) -> Any:
        if name not in self._steps:
            self._steps[name] = make()
        return self._steps[name]

    def sam_clip(self) -> SamClip:
        """The metric on these networks."""
        settings, folder = self.settings("sam_clip"), self.folder("sam_clip")
        return SamClip(
            segment=segmenter(settings["segmenter"], settings["segments"], self.encode, self.decode),
            stop_words=frozenset((folder / "stop_words.txt").read_text(encoding="utf-8").split()),
            keyword_tokenizer=TextTokenizer.load(folder, settings["keyword_tokenizer"]),
            embed_keywords=self._embed(settings["keyword_model"]),
            text_tokenizer=TextTokenizer.load(folder, settings["text_tokenizer"]),
            embed_texts=self._embed(settings["text_model"]),
            pixel_spec=PixelSpec(**settings["pixels"]),
            embed_images=self._embed(settings["image_model"]),
        )

    def _embed(self, remote: Mapping[str, Any]) -> Callable[[NDArray[Any]], NDArray[np.float32]]:
        def embed(rows: NDArray[Any]) -> NDArray[np.float32]:
            size = remote["max_batch_size"]
            parts = [rows[start : start + size] for start in range(0, len(rows), size)]
            outputs = [self.run(remote["model"], {remote["input_name"]: part}, remote["output_name"]) for part in parts]
            return np.concatenate(outputs)

        return embed

    def encode(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """SAM's encoder."""
        return self.run("sam_encoder", {"PIXELS": pixels}, "EMBEDDING")

    def decode(
        self, embedding: NDArray[np.float32], points: NDArray[np.float32], min_iou: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """SAM's decoder."""
        tokens = self.run("sam_points", {"POINTS": points}, "POINT_TOKENS")
        inputs = {"EMBEDDING": embedding, "POINT_TOKENS": tokens, "MIN_IOU": np.array([min_iou], np.float32)}
        outputs = self.run_all("sam_decoder", inputs)
        return outputs["MASKS"], outputs["IOU"]

    def iqa_settings(self) -> dict[str, Any]:
        """Settings of the metric iqa; NIQE has none, and none of its arithmetic is a network's."""
        return self.settings("iqa") if (self.folder("iqa") / "settings.json").exists() else {}

    def _make_iqa(self) -> Callable[[NDArray[np.uint8]], float]:
        settings = self.iqa_settings()
        if "metric" not in settings:
            from imgeval.metrics.niqe import load_model, luminance, niqe

            model = load_model(self.folder("iqa") / "niqe.npz")
            return lambda rgb: niqe(luminance(rgb), model)
        from imgeval.metrics.pyiqa_metric import PyiqaMetric

        metric = PyiqaMetric(settings["metric"], self.folder("iqa") / settings["checkpoint"])
        return metric.score
