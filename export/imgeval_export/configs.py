"""Model configurations as typed data, and their text: the `config.pbtxt` of each model and of the ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from imgeval.contract import (
    DETAILS,
    ENSEMBLE,
    IMAGE,
    INPUT_DETAILS,
    MAX_BATCH_SIZE,
    METRIC_DETAILS,
    METRIC_NAMES,
    PROMPT,
    SCORE,
    Tensor,
    metric_tensor,
)

TRITON_TYPES = {
    "BYTES": pb.TYPE_STRING,
    "FP32": pb.TYPE_FP32,
    "INT32": pb.TYPE_INT32,
    "INT64": pb.TYPE_INT64,
    "UINT8": pb.TYPE_UINT8,
}

KINDS = {"cpu": pb.ModelInstanceGroup.KIND_CPU, "gpu": pb.ModelInstanceGroup.KIND_GPU}

ENSEMBLE_INPUTS = (IMAGE, PROMPT)
# Every public output: the contract's, then the diagnostic ones.
ENSEMBLE_OUTPUTS = (SCORE, *map(metric_tensor, METRIC_NAMES), DETAILS, INPUT_DETAILS, *METRIC_DETAILS.values())
PUBLIC_NAMES = frozenset(tensor.name for tensor in (*ENSEMBLE_INPUTS, *ENSEMBLE_OUTPUTS))


@dataclass(frozen=True)
class Accelerator:
    """An execution provider of the native onnxruntime backend on a GPU, "tensorrt" or "cuda", with its options."""

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Model:
    """One composing model: its tensors, how it is served, and how it stands in the ensemble."""

    name: str
    backend: str  # "python" or "onnxruntime"
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    optional: frozenset[str] = frozenset()  # names of inputs that a request may leave out
    max_batch_size: int = MAX_BATCH_SIZE  # 0: the model's own first dimension is no batch, and none is made
    instances: int = 1
    precision: str = "fp32"  # of its matrix products; precision.py
    rounded_by_engine: bool = False  # on a CPU, a lower precision is the engine's doing, and the file stays
    device: str = "cpu"  # "gpu": an instance on each GPU that the server has
    max_queue_delay_microseconds: int = 0  # a batch is what waits when the model is free; none waits for a fuller one
    preferred_batch_sizes: tuple[int, ...] = ()  # that are sent without any more delay
    warmup_batch_sizes: tuple[int, ...] = ()  # of zeros, that are computed before the model counts as ready
    accelerators: tuple[Accelerator, ...] = ()  # the first that takes a node has it; then CUDA, then the CPU
    parameters: Mapping[str, str] = field(default_factory=dict)
    source: str = ""  # folder of its model.py in the project's model_repository; by default its name
    is_step: bool = True  # False: only other models call it
    # Ensemble name of a tensor, where it is not the usual one (`ensemble_name`).
    ensemble_names: Mapping[str, str] = field(default_factory=dict)

    def ensemble_name(self, tensor: Tensor) -> str:
        """What the ensemble calls a tensor of this model: public ones by their names, others in small letters."""
        usual = tensor.name if tensor.name in PUBLIC_NAMES else tensor.name.lower()
        return self.ensemble_names.get(tensor.name, usual)


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
        instance_group=[pb.ModelInstanceGroup(kind=KINDS[model.device], count=model.instances)],
        dynamic_batching=_dynamic_batching(model) if model.max_batch_size else None,
        optimization=_optimization(model.accelerators) if model.accelerators else None,
        model_warmup=[_warmup(model, size) for size in model.warmup_batch_sizes],
        parameters=_parameters(model.parameters),
    )
    return str(text_format.MessageToString(config))


def ensemble_text(models: Sequence[Model], parameters: Mapping[str, str]) -> str:
    """The `config.pbtxt` of the ensemble: the public tensor contract, and the graph that these models make."""
    config = pb.ModelConfig(
        name=ENSEMBLE,
        platform="ensemble",
        max_batch_size=MAX_BATCH_SIZE,
        input=[
            pb.ModelInput(name=tensor.name, data_type=TRITON_TYPES[tensor.dtype], dims=tensor.shape)
            for tensor in ENSEMBLE_INPUTS
        ],
        output=[_output(tensor) for tensor in ENSEMBLE_OUTPUTS],
        ensemble_scheduling=pb.ModelEnsembling(step=_steps(models)),
        parameters=_parameters(parameters),
    )
    return str(text_format.MessageToString(config))


def _steps(models: Sequence[Model]) -> list[pb.ModelEnsembling.Step]:
    """A step per model. An optional input that nothing in this repository makes is left out."""
    steps = [model for model in models if model.is_step]
    made = {model.ensemble_name(tensor) for model in steps for tensor in model.outputs}
    return [
        pb.ModelEnsembling.Step(
            model_name=model.name,
            model_version=-1,
            input_map={
                tensor.name: model.ensemble_name(tensor)
                for tensor in model.inputs
                if tensor.name not in model.optional or model.ensemble_name(tensor) in made
            },
            output_map={tensor.name: model.ensemble_name(tensor) for tensor in model.outputs},
        )
        for model in steps
    ]


def _dynamic_batching(model: Model) -> pb.ModelDynamicBatching:
    """No queue policy: a client waits as long as its own deadline says.

    With a timeout of its own, or permission for one, a queue sends nothing on while its model computes, and then often
    sleeps for 500 ms beside an idle model; with time it sleeps more (triton-inference-server/server, issue 8870).
    """
    return pb.ModelDynamicBatching(
        preferred_batch_size=model.preferred_batch_sizes,
        max_queue_delay_microseconds=model.max_queue_delay_microseconds,
    )


def _warmup(model: Model, batch_size: int) -> pb.ModelWarmup:
    inputs = {
        tensor.name: pb.ModelWarmup.Input(data_type=TRITON_TYPES[tensor.dtype], dims=tensor.shape, zero_data=True)
        for tensor in model.inputs
    }
    return pb.ModelWarmup(name=f"zeros_{batch_size}", batch_size=batch_size, inputs=inputs)


def _optimization(accelerators: Sequence[Accelerator]) -> pb.ModelOptimizationPolicy:
    policy = pb.ModelOptimizationPolicy
    chosen = [
        policy.ExecutionAccelerators.Accelerator(name=each.name, parameters=each.parameters) for each in accelerators
    ]
    return policy(execution_accelerators=policy.ExecutionAccelerators(gpu_execution_accelerator=chosen))


def _output(tensor: Tensor) -> pb.ModelOutput:
    return pb.ModelOutput(name=tensor.name, data_type=TRITON_TYPES[tensor.dtype], dims=tensor.shape)


def _parameters(parameters: Mapping[str, str]) -> dict[str, pb.ModelParameter]:
    return {name: pb.ModelParameter(string_value=value) for name, value in parameters.items()}
