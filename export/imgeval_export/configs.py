"""Model configurations as typed data, and their text: the `config.pbtxt` of each model.

Tensors come from `imgeval.contract`; here they get the lengths that a profile gives them and the settings of a server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from imgeval.contract import (
    DETAILS,
    EMBEDDING,
    ENSEMBLE,
    IMAGE,
    IMAGE_EMBEDDING,
    INPUT_DETAILS,
    INPUT_IDS,
    MAX_BATCH_SIZE,
    METRIC_DETAILS,
    METRIC_NAMES,
    PIXELS,
    PROMPT,
    RGB,
    SCORE,
    SIZE,
    TEXT_EMBEDDING,
    Tensor,
    for_combine,
    metric_tensor,
)

TOWER_MAX_BATCH_SIZE = 32  # an image has up to 20 segments of 5 %, and one call embeds all its crops
QUEUE_TIMEOUT_MICROSECONDS = 60_000_000  # a request that waited so long in one queue is rejected, not kept for ever

TRITON_TYPES = {
    "BYTES": pb.TYPE_STRING,
    "FP32": pb.TYPE_FP32,
    "INT32": pb.TYPE_INT32,
    "INT64": pb.TYPE_INT64,
    "UINT8": pb.TYPE_UINT8,
}


@dataclass(frozen=True)
class Model:
    """One composing model: its tensors and how it is served."""

    name: str
    backend: str  # "python" or "onnxruntime"
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    optional: frozenset[str] = frozenset()  # names of inputs that a request may leave out
    max_batch_size: int = MAX_BATCH_SIZE
    instances: int = 1
    max_queue_delay_microseconds: int = 0  # a batch is what waits when the model is free; none waits for a fuller one
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One step of the ensemble; inputs and outputs map the model's tensor name to the ensemble's."""

    model: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True)
class Towers:
    """What the dual encoder of a profile looks like from outside."""

    side_px: int
    embedding_dim: int


def models(towers: Towers, unavailable: Sequence[str]) -> tuple[Model, ...]:
    """The composing models; `unavailable` names the metrics that have none."""
    vector = (towers.embedding_dim,)
    pixels = Tensor(PIXELS.name, PIXELS.dtype, (3, towers.side_px, towers.side_px))
    embedding = Tensor(EMBEDDING.name, EMBEDDING.dtype, vector)
    image_embedding = Tensor(IMAGE_EMBEDDING.name, IMAGE_EMBEDDING.dtype, vector)
    text_embedding = Tensor(TEXT_EMBEDDING.name, TEXT_EMBEDDING.dtype, vector)
    served = {name: _both(metric_tensor(name)) for name in METRIC_NAMES}
    explained = {name: (*served[name], *_both(tensor)) for name, tensor in METRIC_DETAILS.items()}
    to_combine = tuple(for_combine(tensor) for tensor in (*map(metric_tensor, METRIC_NAMES), *METRIC_DETAILS.values()))
    return (
        Model("preprocess", "python", (IMAGE, PROMPT), (pixels, RGB, SIZE, INPUT_IDS, *_both(INPUT_DETAILS))),
        _tower("clip_image", pixels, embedding),
        _tower("clip_text", INPUT_IDS, embedding),
        Model("clip", "onnxruntime", (image_embedding, text_embedding), served["clip"], parameters=_threads(1)),
        Model("sam_clip", "python", (RGB, SIZE, PROMPT), explained["sam_clip"]),
        Model("iqa", "python", (RGB, SIZE), explained["iqa"]),
        Model("unavailable", "python", (SIZE,), tuple(metric_tensor(name) for name in unavailable)),
        Model(
            "combine",
            "python",
            (for_combine(INPUT_DETAILS), *to_combine),
            (SCORE, DETAILS),
            optional=frozenset(tensor.name for tensor in to_combine),
        ),
    )


def steps(unavailable: Sequence[str]) -> tuple[Step, ...]:
    """The ensemble's graph. Public tensors are in capitals as in the contract, internal ones in small letters."""
    explained = [name for name in METRIC_DETAILS if name not in unavailable]
    available = [name for name in METRIC_NAMES if name not in unavailable]
    to_combine = [for_combine(metric_tensor(name)) for name in available]
    to_combine += [for_combine(METRIC_DETAILS[name]) for name in explained]
    return (
        Step(
            "preprocess",
            _same(IMAGE, PROMPT),
            {
                **_internal(PIXELS, RGB, SIZE, INPUT_IDS, for_combine(INPUT_DETAILS)),
                **_same(INPUT_DETAILS),
            },
        ),
        Step("clip_image", _internal(PIXELS), {EMBEDDING.name: "image_embedding"}),
        Step("clip_text", _internal(INPUT_IDS), {EMBEDDING.name: "text_embedding"}),
        Step("clip", _internal(IMAGE_EMBEDDING, TEXT_EMBEDDING), _emitted(metric_tensor("clip"))),
        Step(
            "sam_clip",
            {**_internal(RGB, SIZE), **_same(PROMPT)},
            _emitted(metric_tensor("sam_clip"), METRIC_DETAILS["sam_clip"]),
        ),
        Step("iqa", _internal(RGB, SIZE), _emitted(metric_tensor("iqa"), METRIC_DETAILS["iqa"])),
        Step("unavailable", _internal(SIZE), _same(*(metric_tensor(name) for name in unavailable))),
        Step("combine", _internal(for_combine(INPUT_DETAILS), *to_combine), _same(SCORE, DETAILS)),
    )


def model_text(model: Model) -> str:
    """The `config.pbtxt` of a composing model."""
    config = pb.ModelConfig(
        name=model.name,
        backend=model.backend,
        max_batch_size=model.max_batch_size,
        input=[
            pb.ModelInput(
                name=tensor.name,
                data_type=TRITON_TYPES[tensor.dtype],
                dims=tensor.shape,
                optional=tensor.name in model.optional,
                # Python steps get each request by itself, so images of different sizes may share a batch.
                allow_ragged_batch=model.backend == "python" and -1 in tensor.shape,
            )
            for tensor in model.inputs
        ],
        output=[_output(tensor) for tensor in model.outputs],
        instance_group=[pb.ModelInstanceGroup(kind=pb.ModelInstanceGroup.KIND_CPU, count=model.instances)],
        dynamic_batching=pb.ModelDynamicBatching(
            max_queue_delay_microseconds=model.max_queue_delay_microseconds,
            default_queue_policy=pb.ModelQueuePolicy(
                timeout_action=pb.ModelQueuePolicy.REJECT,
                default_timeout_microseconds=QUEUE_TIMEOUT_MICROSECONDS,
                allow_timeout_override=True,
            ),
        ),
        parameters={name: pb.ModelParameter(string_value=value) for name, value in model.parameters.items()},
    )
    return str(text_format.MessageToString(config))


def ensemble_text(unavailable: Sequence[str], parameters: Mapping[str, str]) -> str:
    """The `config.pbtxt` of the ensemble, with the public tensor contract."""
    config = pb.ModelConfig(
        name=ENSEMBLE,
        platform="ensemble",
        max_batch_size=MAX_BATCH_SIZE,
        input=[
            pb.ModelInput(name=tensor.name, data_type=TRITON_TYPES[tensor.dtype], dims=tensor.shape)
            for tensor in (IMAGE, PROMPT)
        ],
        output=[_output(tensor) for tensor in ensemble_outputs()],
        ensemble_scheduling=pb.ModelEnsembling(
            step=[
                pb.ModelEnsembling.Step(
                    model_name=step.model, model_version=-1, input_map=dict(step.inputs), output_map=dict(step.outputs)
                )
                for step in steps(unavailable)
            ]
        ),
        parameters={name: pb.ModelParameter(string_value=value) for name, value in parameters.items()},
    )
    return str(text_format.MessageToString(config))


def ensemble_outputs() -> tuple[Tensor, ...]:
    """Every public output: the contract's, then the diagnostic ones."""
    return (SCORE, *map(metric_tensor, METRIC_NAMES), DETAILS, INPUT_DETAILS, *METRIC_DETAILS.values())


def _output(tensor: Tensor) -> pb.ModelOutput:
    return pb.ModelOutput(name=tensor.name, data_type=TRITON_TYPES[tensor.dtype], dims=tensor.shape)


def _tower(name: str, given: Tensor, embedding: Tensor) -> Model:
    return Model(
        name, "onnxruntime", (given,), (embedding,), max_batch_size=TOWER_MAX_BATCH_SIZE, parameters=_threads(0)
    )


def _threads(count: int) -> dict[str, str]:
    """The engine's threads, as this and the native backend take them; 0: as many as the machine has cores."""
    return {"intra_op_thread_count": str(count)}


def _both(tensor: Tensor) -> tuple[Tensor, Tensor]:
    return tensor, for_combine(tensor)


def _same(*tensors: Tensor) -> dict[str, str]:
    return {tensor.name: tensor.name for tensor in tensors}


def _internal(*tensors: Tensor) -> dict[str, str]:
    return {tensor.name: tensor.name.lower() for tensor in tensors}


def _emitted(*tensors: Tensor) -> dict[str, str]:
    return {**_same(*tensors), **_internal(*map(for_combine, tensors))}
