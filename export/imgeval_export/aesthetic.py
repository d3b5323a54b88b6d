"""LAION's aesthetic predictor (christophschuhmann/improved-aesthetic-predictor) as an ONNX model.

A head on the image embedding of CLIP ViT-L/14: five linear layers, 768-1024-128-64-16-1, trained with dropout between
them and with no activation (they are commented out in `simple_inference.py`, and the file is called linearMSE). Without
dropout, which only training uses, that is one affine map, w . e + b, so the layers are multiplied out here in float64:
nearer to the exact value than layer by layer in float32, and one dot product in the place of five matrices.
"""

from __future__ import annotations

import numpy as np
import onnx

from imgeval.contract import IMAGE_EMBEDDING, for_combine, metric_tensor
from imgeval_export.graph import Graph
from imgeval_export.state import State, check_state

AESTHETIC = metric_tensor("aesthetic")

# (name in the state dict, outputs, inputs); the indices between them are the dropouts'.
LAYERS = (
    ("layers.0", 1024, 768),
    ("layers.2", 128, 1024),
    ("layers.4", 64, 128),
    ("layers.6", 16, 64),
    ("layers.7", 1, 16),
)


def expected_shapes() -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of the head."""
    weights = {f"{name}.weight": (outputs, inputs) for name, outputs, inputs in LAYERS}
    return weights | {f"{name}.bias": (outputs,) for name, outputs, _ in LAYERS}


def aesthetic_model(state: State) -> onnx.ModelProto:
    """IMAGE_EMBEDDING (B, 768), of any norm -> AESTHETIC (B, 1), about 1 to 10, under both its names.

    The embedding is scaled to length 1, as upstream does it before the head; for one that has this length already,
    that changes the last bit at most. Raises:
        BuildError: `state` is not that of LAION's head.
    """
    check_state("LAION's aesthetic predictor", state, expected_shapes())
    weight, bias = np.eye(LAYERS[0][2]), np.zeros(LAYERS[0][2])
    for name, _, _ in LAYERS:
        layer = state[f"{name}.weight"].astype(np.float64)
        weight, bias = layer @ weight, layer @ bias + state[f"{name}.bias"]

    graph = Graph("aesthetic")
    embedding = graph.l2_normalize(graph.input(IMAGE_EMBEDDING.name, ("B", LAYERS[0][2])))
    product = graph.node("MatMul", embedding, graph.constant("weight", weight.T))  # (B, 1)
    graph.node("Add", product, graph.constant("bias", bias), output=AESTHETIC.name)
    graph.node("Identity", AESTHETIC.name, output=for_combine(AESTHETIC).name)
    for name in (AESTHETIC.name, for_combine(AESTHETIC).name):
        graph.output(name, ("B", 1))
    return graph.model()
