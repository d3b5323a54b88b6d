"""Published folders: both file formats give the same model, and what is wrong or hostile is refused by name."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

import _qalign_tiny as tiny  # noqa: E402
from torch import Tensor  # noqa: E402

from imgeval.errors import BuildError  # noqa: E402
from imgeval.metrics.qalign.checkpoint import load_model, shards  # noqa: E402
from imgeval.metrics.qalign.config import QAlignConfig  # noqa: E402
from imgeval.metrics.qalign.model import QAlignModel  # noqa: E402
from imgeval.metrics.qalign.scorer import QAlign  # noqa: E402
from imgeval_export.random_weights_qalign import random_state, write_random_one_align  # noqa: E402

Format = Literal["safetensors", "bin"]
KEY = "model.layers.1.self_attn.k_proj.multiway.1.weight"


def write(folder: Path, state: dict[str, Any], file_format: Format = "safetensors") -> Path:
    """A folder with one file and no index."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(tiny.CONFIG.to_dict()))
    if file_format == "safetensors":
        safetensors_torch.save_file(state, folder / "model.safetensors")
    else:
        torch.save(state, folder / "pytorch_model.bin")
    return folder


@pytest.fixture
def state() -> dict[str, Tensor]:
    return random_state(tiny.CONFIG, seed=1)


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
@pytest.mark.parametrize("shard_bytes", [200_000, 2**31])
def test_round_trip(tmp_path: Path, state: dict[str, Tensor], file_format: Format, shard_bytes: int) -> None:
    write_random_one_align(
        tmp_path, tiny.CONFIG, seed=1, file_format=file_format, dtype=torch.float32, shard_bytes=shard_bytes
    )
    assert (len(shards(tmp_path)) > 5) == (shard_bytes < 2**31)
    model = load_model(tmp_path)
    assert model.config == tiny.CONFIG
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
def test_one_file_without_an_index(tmp_path: Path, state: dict[str, Tensor], file_format: Format) -> None:
    loaded = load_model(write(tmp_path, state, file_format)).state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())


def test_weights_of_a_bin_file_are_not_copied(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """They stay where the file is mapped."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs Linux")
    file = write(tmp_path, state, "bin") / "pytorch_model.bin"
    model = load_model(tmp_path)
    mapped = [line.split()[0].split("-") for line in maps.read_text().splitlines() if line.endswith(str(file))]
    spans = [(int(start, 16), int(end, 16)) for start, end in mapped]
    assert all(any(start <= each.data_ptr() < end for start, end in spans) for each in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_precision_is_chosen_by_the_caller(tmp_path: Path, state: dict[str, Tensor], dtype: torch.dtype) -> None:
    half = {name: tensor.half() for name, tensor in state.items()}
    model = load_model(write(tmp_path, half), dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert torch.equal(model.state_dict()[KEY], half[KEY].to(dtype))


def test_rotary_frequencies_of_older_files_are_ignored(tmp_path: Path, state: dict[str, Tensor]) -> None:
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    load_model(write(tmp_path, state))


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
def test_wrong_weights_are_refused_by_name(tmp_path: Path, state: dict[str, Tensor], file_format: Format) -> None:
    del state[KEY]
    state["model.layers.1.self_attn.k_proj.weight"] = torch.zeros(2, 2)
    state["lm_head.weight"] = torch.zeros(3, 96)
    state["model.norm.weight"] = torch.ones(96, dtype=torch.int64)
    with pytest.raises(BuildError) as caught:
        load_model(write(tmp_path, state, file_format))
    message = str(caught.value)
    assert message.startswith(str(tmp_path))
    assert f"missing: {KEY};" in message
    assert "unexpected: model.layers.1.self_attn.k_proj.weight;" in message
    assert "wrong shape: lm_head.weight is (3, 96), not (120, 96);" in message
    assert "not float32, float16 or bfloat16: model.norm.weight" in message


def test_long_lists_of_names_are_cut(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"missing: lm_head\.weight|and \d+ more") as caught:
        load_model(write(tmp_path, {"x": torch.zeros(1)}))
    assert len(str(caught.value)) < 1000


def test_a_tensor_in_two_files_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    write_random_one_align(tmp_path, tiny.CONFIG, dtype=torch.float32, shard_bytes=10**6)
    first = shards(tmp_path)[0]
    content = safetensors_torch.load_file(first)
    safetensors_torch.save_file({**content, KEY: state[KEY]}, first)
    with pytest.raises(BuildError, match=rf"in two files: {KEY}"):
        load_model(tmp_path)


@pytest.mark.parametrize("file_format", ["safetensors", "bin"])
def test_incomplete_folders(tmp_path: Path, file_format: Format) -> None:
    with pytest.raises(BuildError, match=r"config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(tiny.CONFIG.to_dict()))
    with pytest.raises(BuildError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        load_model(tmp_path)
    write_random_one_align(tmp_path, tiny.CONFIG, file_format=file_format, shard_bytes=200_000)
    gone = shards(tmp_path)[1]
    gone.rename(tmp_path / "elsewhere")
    with pytest.raises(BuildError, match=f"missing files: {gone.name}"):
        load_model(tmp_path)
    (tmp_path / "elsewhere").rename(gone)
    gone.write_bytes(gone.read_bytes()[:1000])
    with pytest.raises(BuildError, match=gone.name):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        "{",
        "[]",
        "{}",
        '{"weight_map": 3}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": 3}}',
        '{"weight_map": {"a": []}}',
    ],
)
def test_damaged_indexes(tmp_path: Path, state: dict[str, Tensor], index: str) -> None:
    write(tmp_path, state)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(BuildError, match=r"index\.json"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["../outside.safetensors", "/outside.safetensors", "..", ""])
def test_an_index_stays_inside_its_folder(tmp_path: Path, state: dict[str, Tensor], name: str) -> None:
    write(tmp_path, state)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {KEY: name}}))
    with pytest.raises(BuildError):
        load_model(tmp_path)


class _Hostile:
    """Unpickles as a command that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("zip_format", [True, False])
def test_a_hostile_bin_file_executes_nothing(tmp_path: Path, state: dict[str, Tensor], zip_format: bool) -> None:
    mark = tmp_path / "executed"
    folder = write(tmp_path / "folder", state, "bin")
    torch.save({**state, "x": _Hostile(mark)}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zip_format)
    with pytest.raises(BuildError, match=r"pytorch_model\.bin: not read"):
        load_model(folder)
    assert not mark.exists()


def test_a_bin_file_of_something_else(tmp_path: Path, state: dict[str, Tensor]) -> None:
    for content in ([1, 2], {"model": state}, {3: torch.zeros(2)}):
        folder = write(tmp_path, {}, "bin")
        torch.save(content, folder / "pytorch_model.bin")
        with pytest.raises(BuildError, match="not a flat dictionary"):
            load_model(folder)


def test_remote_code_is_not_looked_at(tmp_path: Path, state: dict[str, Tensor]) -> None:
    write(tmp_path, state)
    (tmp_path / "modeling_mplug_owl2.py").write_text("raise SystemExit('executed')")
    config = {**tiny.CONFIG.to_dict(), "auto_map": {"AutoModelForCausalLM": "modeling_mplug_owl2.X"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    load_model(tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_from_folder_to_scores(tmp_path: Path, state: dict[str, Tensor], precision: Any) -> None:
    scorer = QAlign.from_folder(write(tmp_path, state), tiny.PROMPTS, precision=precision)
    assert not any("embed_tokens" in name or "lm_head" in name for name in scorer.model.state_dict())
    exact = QAlign(tiny.model(), tiny.PROMPTS).score(tiny.images())
    drift = [abs(a.quality - b.quality) for a, b in zip(scorer.score(tiny.images()), exact, strict=True)]
    spread = np.std([result.quality for result in exact])
    print(f"{precision}: max {max(drift):.1e} mean {np.mean(drift):.1e} spread {spread:.2g}")
    assert max(drift) < {"fp32": 1e-6, "bf16": 0.1, "fp16": 0.02}[precision]


def test_unknown_precisions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="precision is 'float32', not fp32, bf16, fp16, int8 or int4"):
        QAlign.from_folder(tmp_path, tiny.PROMPTS, precision="float32")  # type: ignore[arg-type]


def test_configs_of_other_architectures_are_refused() -> None:
    good = tiny.CONFIG.to_dict()
    assert QAlignConfig.from_dict(good) == tiny.CONFIG
    for change, expected in (
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling"),
        ({"hidden_size": "96"}, "hidden_size is '96', not a whole number"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"num_hidden_layers": 0}, r"text\.layers is 0"),
        ({"rms_norm_eps": float("nan")}, r"text\.norm_eps is nan"),
        ({"num_attention_heads": 5, "num_key_value_heads": 5}, "does not divide into 5 heads"),
        ({"visual_config": []}, "visual_config is"),
    ):
        with pytest.raises(BuildError, match=expected):
            QAlignConfig.from_dict({**good, **change})
    for part, change, expected in (
        ("visual_model", {"hidden_act": "gelu"}, "hidden_act"),
        ("visual_model", {"image_size": 71}, "71 px do not divide"),
        ("visual_abstractor", {"grid_size": 32}, "grid_size is 32"),
        ("visual_abstractor", {"grid_size": None}, "grid_size is None"),
        ("visual_abstractor", {"add_v2t_pos_emb": True}, "add_v2t_pos_emb"),
        ("visual_abstractor", {"hidden_size": 128}, "not the vision width"),
    ):
        visual = {**good["visual_config"], part: {**good["visual_config"][part], **change}}
        with pytest.raises(BuildError, match=expected):
            QAlignConfig.from_dict({**good, "visual_config": visual})


def test_the_defaults_are_the_published_model() -> None:
    """The seven billion of LLaMA-2, 1.07 for the second keys and values, and the vision part."""
    config = QAlignConfig()
    assert QAlignConfig.from_dict(config.to_dict()) == config
    assert (config.vision.tokens, config.visual_tokens) == (1025, 65)
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in QAlignModel(config).parameters())
    assert 8.1e9 < parameters < 8.3e9
