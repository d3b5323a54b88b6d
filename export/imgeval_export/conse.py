"""An image encoder for the MiniLM text space, out of a classifier: ConSE, Norouzi et al. 2014, arXiv 1312.5650.

    f(image) = sum over the T most probable classes of  p(class | image) / Z * s(class),   Z = the sum of those p

with s the text embedding of "a photo of {class}", and f scaled to length 1. A cosine between f(image) and the embedding
of any prompt then says how well they match, as far as ImageNet's 1000 classes can tell.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from imgeval.errors import BuildError
from imgeval_export.efficientnet import IMAGE_SIZE, NUM_CLASSES, add_efficientnet_lite2
from imgeval_export.graph import Graph
from imgeval_export.state import State

CLASS_PROMPT = "a photo of {}"
TOP_K = 10  # T, the value that the paper found best


def conse_model(
    efficientnet_state: State, class_embeddings: NDArray[np.float32], top_k: int = TOP_K
) -> onnx.ModelProto:
    """PIXELS (B, 3, 260, 260), normalised RGB -> EMBEDDING (B, D), of length 1.

    Args:
        efficientnet_state: state dict of EfficientNet-Lite2.
        class_embeddings: (1000, D) text embeddings of `CLASS_PROMPT` for every class, in the classifier's order.
        top_k: how many classes an image is made of, 1 to 1000.

    Raises:
        BuildError: the state dict is another network's, the embeddings are not (1000, D), or `top_k` is out of range.
    """
    if class_embeddings.ndim != 2 or len(class_embeddings) != NUM_CLASSES:
        raise BuildError(f"class embeddings are {class_embeddings.shape}, not ({NUM_CLASSES}, D)")
    if not 1 <= top_k <= NUM_CLASSES:
        raise BuildError(f"top_k is {top_k}, allowed are 1 to {NUM_CLASSES}")
    graph = Graph("conse")
    pixels = graph.input("PIXELS", ("B", 3, IMAGE_SIZE, IMAGE_SIZE))
    logits = add_efficientnet_lite2(graph, pixels, efficientnet_state)  # (B, 1000)

    # Softmax over the K largest logits alone is exactly the K largest probabilities divided by their sum.
    top, classes = graph.nodes("TopK", logits, graph.integers(top_k), outputs=["top_logits", "top_classes"])  # (B, K)
    weights = graph.node("Unsqueeze", graph.node("Softmax", top, axis=-1), graph.integers(1))  # (B, 1, K)
    embeddings = graph.node("Gather", graph.constant("class_embeddings", class_embeddings), classes)  # (B, K, D)
    mean = graph.node("Squeeze", graph.node("MatMul", weights, embeddings), graph.integers(1))  # (B, D)
    graph.l2_normalize(mean, output="EMBEDDING")
    graph.output("EMBEDDING", ("B", class_embeddings.shape[1]))
    return graph.model()
