"""The cosine of an image embedding and a text embedding, as a model of its own for the ensemble."""

from __future__ import annotations

import onnx

from imgeval.contract import IMAGE_EMBEDDING, TEXT_EMBEDDING, for_combine, metric_tensor
from imgeval_export.graph import Graph

COSINE = metric_tensor("clip")


def similarity_model() -> onnx.ModelProto:
    """IMAGE_EMBEDDING, TEXT_EMBEDDING (B, D), of any norm -> CLIP (B, 1), their cosine, under both its names.

    An embedding of zeros has cosine 0 with everything.
    """
    graph = Graph("similarity")
    inputs = (IMAGE_EMBEDDING.name, TEXT_EMBEDDING.name)
    image, text = (graph.l2_normalize(graph.input(name, ("B", "D"))) for name in inputs)
    graph.node("ReduceSum", graph.node("Mul", image, text), graph.integers(-1), keepdims=1, output=COSINE.name)
    graph.node("Identity", COSINE.name, output=for_combine(COSINE).name)
    for name in (COSINE.name, for_combine(COSINE).name):
        graph.output(name, ("B", 1))
    return graph.model()
