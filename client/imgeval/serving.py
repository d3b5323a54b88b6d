"""What every `model.py` in the repository shares: requests -> items -> requests, errors, and calls to other models.

Imported only inside a Triton Python stub, where `triton_python_backend_utils` exists.

A Triton batch is a list of requests of one or more items each. `serve` flattens it to items, hands all of them to one
function, and packs the answers into responses. An item that is refused fails its own request and no other.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from numpy.typing import NDArray

from imgeval.cache import FINGERPRINT_PARAMETER, MAX_BYTES_PARAMETER, OFF, ByteCache
from imgeval.contract import RGB, SIZE
from imgeval.embedded.engine import THREADS_PARAMETER
from imgeval.errors import ImgevalError, InvalidInputError

Item = dict[str, Any]  # tensor name -> this item's array, without the batch dimension; optional tensors may be absent
Answer = Mapping[str, Any]  # output name -> this item's array


def model_dir(args: Mapping[str, str]) -> Path:
    """The version folder of the model that Triton is loading: where its `model.py` and data files lie."""
    return Path(args["model_repository"]) / args["model_version"]


def device(args: Mapping[str, str]) -> str:
    """Where this instance computes, as torch names it: "cuda:0" on a GPU instance, else "cpu"."""
    return f"cuda:{args['model_instance_device_id']}" if args["model_instance_kind"] == "GPU" else "cpu"


def settings(args: Mapping[str, str]) -> dict[str, Any]:
    """The content of the `settings.json` that the build wrote beside this `model.py`."""
    content: dict[str, Any] = json.loads((model_dir(args) / "settings.json").read_text(encoding="utf-8"))
    return content


def parameters(args: Mapping[str, str]) -> dict[str, str]:
    """The parameters of the model's configuration."""
    config = json.loads(args["model_config"])
    return {name: value["string_value"] for name, value in config.get("parameters", {}).items()}


def threads(args: Mapping[str, str]) -> int:
    """How many threads the model's configuration gives it; 0 there means as many as there are cores, none means one."""
    return int(parameters(args).get(THREADS_PARAMETER, "1")) or len(os.sched_getaffinity(0))


def set_torch_threads(args: Mapping[str, str]) -> None:
    """Give torch the model's threads; the environment of a server gives one to each of its processes."""
    import torch  # no part of a server whose networks all run in the engine

    torch.set_num_threads(threads(args))


def thread_map(args: Mapping[str, str]) -> Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]:
    """`map`, in the model's threads where it has several. For work that leaves Python's lock alone, as on pixels."""
    return ThreadPoolExecutor(count).map if (count := threads(args)) > 1 else map


def cache(args: Mapping[str, str]) -> ByteCache:
    """The model's cache, of the size that the build gave it; off without one. What it does is in the server's metrics.

    Each instance of a model has its own.
    """
    given = parameters(args)
    max_bytes = int(given.get(MAX_BYTES_PARAMETER, "0"))
    if not max_bytes:
        return OFF
    return ByteCache(max_bytes, given[FINGERPRINT_PARAMETER], CacheMetrics(args["model_name"]))


class CacheMetrics:
    """Hits, misses and size of a cache among the metrics of the server, in Prometheus' format on its metrics port."""

    def __init__(self, model: str) -> None:
        # Triton removes a family when its Python object goes.
        self._families = [
            pb_utils.MetricFamily(name=f"imgeval_cache_{name}", description=description, kind=kind)
            for name, description, kind in (
                ("hits_total", "Values that were answered without computing them", pb_utils.MetricFamily.COUNTER),
                ("misses_total", "Values that were computed and kept", pb_utils.MetricFamily.COUNTER),
                ("bytes", "Memory that the kept values take", pb_utils.MetricFamily.GAUGE),
            )
        ]
        self._hits, self._misses, self._bytes = (family.Metric(labels={"model": model}) for family in self._families)

    def __call__(self, hits: int, misses: int, used_bytes: int) -> None:
        """Add to the counts; each is a message to the server, so what does not change is not sent."""
        if hits:
            self._hits.increment(hits)
        if misses:
            self._misses.increment(misses)
            self._bytes.set(used_bytes)


def serve(
    step: str,
    requests: Sequence[Any],
    inputs: Sequence[str],
    answer: Callable[[Sequence[Item]], Sequence[Answer | ImgevalError]],
) -> list[Any]:
    """Answer a Triton batch.

    Args:
        step: name of the model, put before every error so that a failing ensemble says where.
        requests: as Triton gave them to `execute`.
        inputs: names of the tensors to unpack.
        answer: gets all items of all requests; returns for each its outputs, or the error that refuses it.

    Returns:
        One response per request, in order. An `InvalidInputError` becomes INVALID_ARGUMENT, anything else INTERNAL.
    """
    unpacked = [_items(request, inputs) for request in requests]
    answers = _answer_all(answer, unpacked)
    return [
        _response(step, each, request.requested_output_names()) for request, each in zip(requests, answers, strict=True)
    ]


def _answer_all(
    answer: Callable[[Sequence[Item]], Sequence[Answer | ImgevalError]], unpacked: Sequence[Sequence[Item]]
) -> list[list[Answer | ImgevalError] | Exception]:
    """The answers to each request: all at once, or each by itself where one of them brings the batch down."""
    try:
        answers = iter(answer([item for items in unpacked for item in items]))
        return [[next(answers) for _ in items] for items in unpacked]
    except Exception as error:  # noqa: BLE001 - the boundary: Triton must hear of every failure, else requests hang
        if len(unpacked) == 1:
            return [error]
        return [_answer_all(answer, [items])[0] for items in unpacked]


def _items(request: Any, inputs: Sequence[str]) -> list[Item]:
    tensors = {name: pb_utils.get_input_tensor_by_name(request, name) for name in inputs}
    arrays = {name: tensor.as_numpy() for name, tensor in tensors.items() if tensor is not None}
    size = len(next(iter(arrays.values())))
    return [{name: array[i] for name, array in arrays.items()} for i in range(size)]


def _response(step: str, answers: Sequence[Answer | ImgevalError] | Exception, wanted: set[str]) -> Any:
    if isinstance(answers, Exception):
        return _error(step, answers)
    good: list[Answer] = []
    for index, answer in enumerate(answers):
        if isinstance(answer, ImgevalError):
            return _error(f"{step}: item {index}" if len(answers) > 1 else step, answer)
        good.append(answer)
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, stack([answer[name] for answer in good])) for name in good[0] if name in wanted]
    )


def _error(where: str, error: Exception) -> Any:
    if isinstance(error, InvalidInputError):
        code = pb_utils.TritonError.INVALID_ARG
        message = f"{where}: {error}"
    else:
        code = pb_utils.TritonError.INTERNAL
        message = f"{where}: {type(error).__name__}: {error}"
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))


def stack(rows: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Rows as one batch; flat rows of different lengths are zero-padded to the longest. One row is not copied."""
    if len(rows) == 1:
        return np.ascontiguousarray(rows[0][None])
    if rows[0].ndim == 1 and len({len(row) for row in rows}) > 1:
        batch = np.zeros((len(rows), max(len(row) for row in rows)), dtype=rows[0].dtype)
        for target, row in zip(batch, rows, strict=True):
            target[: len(row)] = row
        return batch
    return np.stack(rows)


def text(value: str) -> NDArray[Any]:
    """One BYTES element."""
    return np.array([value.encode("utf-8")], dtype=np.object_)  # (1,)


def to_json(value: Any) -> NDArray[Any]:
    """One BYTES element that holds JSON; NaN is refused, since JSON has none."""
    return text(json.dumps(value, ensure_ascii=False, allow_nan=False))


def scalar(value: float | None) -> NDArray[np.float32]:
    """One FP32 element; None becomes NaN."""
    return np.array([math.nan if value is None else value], dtype=np.float32)  # (1,)


def size(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    return np.array(rgb.shape[:2], dtype=np.int32)  # (2,)


def rgb(item: Item) -> NDArray[np.uint8]:
    """The decoded image of an item with RGB and SIZE, (H, W, 3), without a copy."""
    height, width = (int(side) for side in item[SIZE.name])
    image: NDArray[np.uint8] = item[RGB.name][: height * width * 3].reshape(height, width, 3)
    return image


def call(model: str, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Run another model of this server (business-logic scripting).

    Raises:
        pb_utils.TritonModelException: the model failed.
    """
    tensors = [pb_utils.Tensor(name, np.ascontiguousarray(array)) for name, array in inputs.items()]
    answers = _exec(model, tensors, outputs, {})
    return {name: answer.as_numpy() for name, answer in answers.items()}


def call_torch(model: str, inputs: Mapping[str, Any], outputs: Sequence[str]) -> dict[str, Any]:
    """As `call`, with torch tensors, which stay on the device of the first input: nothing passes through the host.

    An array among the inputs, such as a single number, is put beside the tensors.

    Raises:
        pb_utils.TritonModelException: the model failed.
    """
    import torch  # no part of a server without a GPU
    from torch.utils.dlpack import from_dlpack

    device = next(iter(inputs.values())).device
    on_gpu = device.type == "cuda"
    kind = pb_utils.TRITONSERVER_MEMORY_GPU if on_gpu else pb_utils.TRITONSERVER_MEMORY_CPU
    # Triton takes tensors in C order only, and waits for the default stream, on which torch has computed them.
    placed = {
        name: torch.from_numpy(given).to(device) if isinstance(given, np.ndarray) else given
        for name, given in inputs.items()
    }
    tensors = [pb_utils.Tensor.from_dlpack(name, tensor.contiguous()) for name, tensor in placed.items()]
    wish = {"preferred_memory": pb_utils.PreferredMemory(kind, device.index or 0)}
    answers = _exec(model, tensors, outputs, wish)
    # What is smaller than an execution provider cares for, or what it keeps on the host, may come from there anyway.
    return {name: from_dlpack(answer).to(device) for name, answer in answers.items()}


CALLS = {"numpy": call, "torch": call_torch}  # by the arrays that they take and give: `MaskOptions.arrays`


def _exec(model: str, tensors: Sequence[Any], outputs: Sequence[str], options: Mapping[str, Any]) -> dict[str, Any]:
    response = pb_utils.InferenceRequest(
        model_name=model, requested_output_names=list(outputs), inputs=list(tensors), **options
    ).exec()
    if response.has_error():
        raise pb_utils.TritonModelException(f"{model}: {response.error().message()}")
    return {name: pb_utils.get_output_tensor_by_name(response, name) for name in outputs}


class RemoteModel:
    """Another model of this server with one input and one output, called in batches."""

    def __init__(self, model: str, input_name: str, output_name: str, max_batch_size: int) -> None:
        self._model, self._input, self._output = model, input_name, output_name
        self._max_batch_size = max_batch_size

    def __call__(self, batch: NDArray[Any]) -> NDArray[Any]:
        """(N, ...) -> (N, ...) for any N >= 1."""
        starts = range(0, len(batch), self._max_batch_size)
        parts = [batch[start : start + self._max_batch_size] for start in starts]
        return np.concatenate([call(self._model, {self._input: part}, [self._output])[self._output] for part in parts])
