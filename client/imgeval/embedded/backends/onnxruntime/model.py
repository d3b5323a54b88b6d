"""The backend "onnxruntime" of the embedded server: serves `model.onnx` as Triton's native backend of that name does.

A python-based backend, so that the very same repository and `config.pbtxt` run here and on the native backend inside
NVIDIA's container. `imgeval.embedded.engine` is what computes. It honours the config's `instance_group` (Triton starts
one process for each) and the native backend's parameter `intra_op_thread_count`.

Where the config gives a model a cache (`imgeval.cache`), a row that was computed before is not computed again; the
native backend ignores this. OpenVINO gives a row the same bits in every batch (measured for the towers of all profiles,
in float32 and bfloat16; `tests/client/test_onnx_backend.py` repeats it for the starter's).
"""

import json
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from imgeval import serving
from imgeval.cache import OFF
from imgeval.embedded.engine import compile_model


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.name = args["model_name"]
        self.batches = config["max_batch_size"] > 0
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        self.compiled = compile_model(path, serving.parameters(args))
        self.request = self.compiled.create_infer_request()
        # Where a network is as fast on one row as on many, batches of always other sizes only cost: each has plans and
        # memory of its own.
        self.rows_per_run = int(serving.parameters(args).get("rows_per_run", "0"))  # 0: all at once
        self.cache = serving.cache(args) if self.batches else OFF  # without batches there are no rows

    def execute(self, requests):
        """One response per request. A model that batches gets all requests as one batch, any other one by one."""
        if not self.batches:
            return [self.answer([request])[0] for request in requests]
        return self.answer(requests)

    def answer(self, requests):
        try:
            inputs = [self.arrays(request) for request in requests]
            outputs = self.recall([np.concatenate(arrays) for arrays in zip(*inputs, strict=True)])
        except Exception as error:  # noqa: BLE001 - the boundary: Triton must hear of every failure, else requests hang
            message = f"{self.name}: {type(error).__name__}: {error}"
            return [pb_utils.InferenceResponse(error=pb_utils.TritonError(message)) for _ in requests]
        if len(requests) == 1:
            return [self.response(requests[0], outputs)]
        ends = np.cumsum([len(first) for first, *_ in inputs])
        rows = {name: np.split(array, ends[:-1]) for name, array in outputs.items()}
        return [
            self.response(request, {name: parts[index] for name, parts in rows.items()})
            for index, request in enumerate(requests)
        ]

    def response(self, request, outputs):
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, array) for name, array in outputs.items() if name in wanted]
        )

    def arrays(self, request):
        return [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for name in self.inputs]

    def recall(self, arrays):
        """`run`, but for the rows that the cache knows. A row is keyed as it came: ids with their padding."""
        if not self.cache.max_bytes:
            return self.run(arrays)

        def run_rows(rows):
            outputs = self.run(arrays if len(rows) == len(arrays[0]) else [array[rows] for array in arrays])
            return list(zip(*outputs.values(), strict=True))

        rows = self.cache.values(range(len(arrays[0])), lambda row: self.cache.key(*(a[row] for a in arrays)), run_rows)
        return {name: np.stack(parts) for name, parts in zip(self.outputs, zip(*rows, strict=True), strict=True)}

    def run(self, arrays):
        """One merged batch through the engine, in parts: output name -> array."""
        if not self.rows_per_run:
            return self.run_part(arrays)
        starts = range(0, len(arrays[0]), self.rows_per_run)
        parts = [self.run_part([array[start : start + self.rows_per_run] for array in arrays]) for start in starts]
        return parts[0] if len(parts) == 1 else {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def run_part(self, arrays):
        self.request.infer(dict(zip(self.inputs, arrays, strict=True)), share_inputs=True)
        return {name: self.request.get_tensor(name).data.copy() for name in self.outputs}
