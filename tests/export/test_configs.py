"""Every config.pbtxt of the built repository, read with tritonclient's protobuf schema, against imgeval.contract."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from imgeval import contract
from imgeval.contract import Tensor
from imgeval_export import configs, profiles

TYPES = {
    pb.TYPE_STRING: "BYTES",
    pb.TYPE_FP32: "FP32",
    pb.TYPE_INT32: "INT32",
    pb.TYPE_INT64: "INT64",
    pb.TYPE_UINT8: "UINT8",
}
PUBLIC_INPUTS = {Tensor("IMAGE", "BYTES"), Tensor("PROMPT", "BYTES")}
PUBLIC_OUTPUTS = {
    Tensor("SCORE", "FP32"),
    *(Tensor(name, "FP32") for name in ("AESTHETIC", "CLIP", "QALIGN_QUALITY", "QALIGN_AESTHETIC", "SAM_CLIP", "IQA")),
    Tensor("DETAILS", "BYTES"),
}
DIAGNOSTIC_OUTPUTS = {Tensor(f"{name}_DETAILS", "BYTES") for name in ("INPUT", "SAM_CLIP", "IQA")}
PROFILES = profiles.NAMES

Configs = Mapping[str, pb.ModelConfig]


def written(repository: Path) -> dict[str, pb.ModelConfig]:
    paths = sorted(repository.glob("*/config.pbtxt"))
    return {path.parent.name: parsed(path.read_text(encoding="utf-8")) for path in paths}


def parsed(text: str) -> pb.ModelConfig:
    return text_format.Parse(text, pb.ModelConfig())


def generated(profile_name: str) -> dict[str, pb.ModelConfig]:
    profile = profiles.get(profile_name)
    texts = {model.name: configs.model_text(model) for model in profile.models}
    texts["imgeval"] = configs.ensemble_text(profile.models, {})
    return {name: parsed(text) for name, text in texts.items()}


@pytest.fixture(params=["the repository that is served", *PROFILES])
def every(request: pytest.FixtureRequest) -> Configs:
    """The configs on disk, and those of every profile, whose weights need not be here."""
    if request.param in PROFILES:
        return generated(request.param)
    return written(request.getfixturevalue("repository"))


def tensors(specs: object) -> set[Tensor]:
    return {Tensor(spec.name, TYPES[spec.data_type], tuple(spec.dims)) for spec in specs}  # type: ignore[attr-defined]


def composing(every: Configs) -> dict[str, pb.ModelConfig]:
    """The models that are steps of the ensemble; a profile may have others, which only these call."""
    return {step.model_name: every[step.model_name] for step in steps(every)}


def steps(every: Configs) -> Iterator[pb.ModelEnsembling.Step]:
    yield from every["imgeval"].ensemble_scheduling.step


# --- the ensemble ----------------------------------------------------------------------------------------------------
def test_public_tensors_are_those_of_the_contract(every: Configs) -> None:
    ensemble = every["imgeval"]
    assert ensemble.platform == "ensemble"
    assert tensors(ensemble.input) == PUBLIC_INPUTS == {contract.IMAGE, contract.PROMPT}
    assert tensors(ensemble.output) == PUBLIC_OUTPUTS | DIAGNOSTIC_OUTPUTS
    assert {contract.SCORE, contract.DETAILS, *map(contract.metric_tensor, contract.METRIC_NAMES)} == PUBLIC_OUTPUTS
    assert {contract.INPUT_DETAILS, *contract.METRIC_DETAILS.values()} == DIAGNOSTIC_OUTPUTS
    assert not any(spec.optional for spec in ensemble.input)


def test_every_step_is_a_model_whose_tensors_exist_and_fit(every: Configs) -> None:
    """A step maps all required inputs and only tensors that its model has; both ends have one type and one shape."""
    flowing = {tensor.name: tensor for tensor in tensors(every["imgeval"].input)}
    for step in steps(every):
        model = every[step.model_name]
        outputs = {tensor.name: tensor for tensor in tensors(model.output)}
        for name, to in step.output_map.items():
            assert to not in flowing, f"{to} is made twice"
            flowing[to] = outputs[name]
    for step in steps(every):
        model = every[step.model_name]
        inputs = {tensor.name: tensor for tensor in tensors(model.input)}
        required = {spec.name for spec in model.input if not spec.optional}
        assert required <= set(step.input_map) <= set(inputs), step.model_name
        for name, source in step.input_map.items():
            assert (flowing[source].dtype, flowing[source].shape) == (inputs[name].dtype, inputs[name].shape), source
    for tensor in tensors(every["imgeval"].output):
        assert (flowing[tensor.name].dtype, flowing[tensor.name].shape) == (tensor.dtype, tensor.shape)


def test_each_model_is_one_step_at_most(every: Configs) -> None:
    counts = Counter(step.model_name for step in steps(every))
    assert set(counts.values()) == {1}
    assert set(counts) < set(every)


def test_no_public_output_is_another_steps_input(every: Configs) -> None:
    """Triton would break requests for a subset of the outputs."""
    outputs = {spec.name for spec in every["imgeval"].output}
    assert not outputs & {source for step in steps(every) for source in step.input_map.values()}


def test_no_value_is_computed_for_nobody(every: Configs) -> None:
    used = {spec.name for spec in every["imgeval"].output}
    used |= {source for step in steps(every) for source in step.input_map.values()}
    made = {to for step in steps(every) for to in step.output_map.values()}
    assert made <= used


@pytest.mark.parametrize(
    ("output", "needs"),
    [
        ("CLIP", {"preprocess", "clip_image", "clip_text", "clip"}),
        ("SAM_CLIP", {"preprocess", "sam_clip"}),
        ("IQA", {"preprocess", "iqa"}),
        ("INPUT_DETAILS", {"preprocess"}),
        ("AESTHETIC", {"preprocess", "unavailable"}),
    ],
)
def test_a_metric_needs_its_own_steps_only(repository: Path, output: str, needs: set[str]) -> None:
    every = written(repository)
    makes = {to: step for step in steps(every) for to in step.output_map.values()}
    found: set[str] = set()
    wanted = [output]
    while wanted:
        if (step := makes.get(wanted.pop())) and step.model_name not in found:
            found.add(step.model_name)
            wanted += step.input_map.values()
    assert found == needs


# --- the composing models --------------------------------------------------------------------------------------------
def test_every_composing_model_batches(every: Configs) -> None:
    for name, config in composing(every).items():
        assert config.max_batch_size > 1, name
        assert config.HasField("dynamic_batching"), name
    assert every["imgeval"].max_batch_size == contract.MAX_BATCH_SIZE
    assert min(config.max_batch_size for config in composing(every).values()) >= contract.MAX_BATCH_SIZE


def test_no_queue_has_a_policy_of_its_own(every: Configs) -> None:
    """`max_queue_size` may hang an ensemble, and a timeout makes the queue sleep beside an idle model."""
    for name, config in composing(every).items():
        assert not config.dynamic_batching.HasField("default_queue_policy"), name


def test_each_model_states_its_name_backend_and_instances(every: Configs) -> None:
    for name, config in composing(every).items():
        assert config.name == name
        assert config.backend in ("python", "onnxruntime")
        assert [group.count >= 1 for group in config.instance_group] == [True], name
        assert not config.HasField("response_cache"), "its key leaves out shape and outputs"


def test_shared_tensors_are_the_contracts(every: Configs) -> None:
    """A tensor of a name that the contract has is that tensor; -1 there may be a length here."""
    known = {
        tensor.name: tensor
        for tensor in (*vars(contract).values(), *contract.METRIC_DETAILS.values(),
                       *map(contract.metric_tensor, contract.METRIC_NAMES))
        if isinstance(tensor, Tensor)
    }  # fmt: skip
    for name, config in composing(every).items():
        for tensor in tensors(config.input) | tensors(config.output):
            expected = known[tensor.name.removesuffix("_FOR_COMBINE")]
            assert tensor.dtype == expected.dtype, f"{name}: {tensor}"
            assert len(tensor.shape) == len(expected.shape), f"{name}: {tensor}"
            for got, allowed in zip(tensor.shape, expected.shape, strict=True):
                assert allowed in (got, -1), f"{name}: {tensor}"


def test_towers_agree_on_the_length_of_embeddings(every: Configs) -> None:
    lengths = {
        tensor.shape
        for config in composing(every).values()
        for tensor in tensors(config.input) | tensors(config.output)
        if tensor.name.endswith("EMBEDDING")
    }
    assert len(lengths) == 1
    assert lengths.pop()[0] > 0


def test_details_can_be_made_of_any_metrics(every: Configs) -> None:
    optional = {spec.name: spec.optional for spec in every["details"].input}
    metrics = {contract.for_combine(contract.metric_tensor(name)).name for name in contract.METRIC_NAMES}
    assert metrics <= set(optional)
    assert [name for name, is_optional in optional.items() if not is_optional] == ["INPUT_DETAILS_FOR_COMBINE"]


# --- the repository's files ------------------------------------------------------------------------------------------
def test_the_repository_has_what_its_configs_promise(repository: Path) -> None:
    every = written(repository)
    assert {path.name for path in repository.iterdir() if path.is_dir()} == set(every)
    for name, config in every.items():
        assert config.name == name
        version = repository / name / "1"
        program = {"python": "model.py", "onnxruntime": "model.onnx"}.get(config.backend)
        assert version.is_dir()
        assert program is None or (version / program).is_file(), name


def test_the_ensemble_says_what_it_was_made_of(repository: Path) -> None:
    parameters = {name: value.string_value for name, value in written(repository)["imgeval"].parameters.items()}
    assert parameters["profile"] == "starter"
    assert len(parameters["fingerprint"]) == 16
