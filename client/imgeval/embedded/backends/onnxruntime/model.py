"""The backend "onnxruntime" of the embedded server: serves `model.onnx` as Triton's native backend of that name does.

A python-based backend, so that the very same repository and `config.pbtxt` run here and on the native backend inside
NVIDIA's container. The engine is OpenVINO, which reads ONNX files and was measured to be the faster one on CPUs (see
docs/engine.md). It honours the config's `instance_group` (Triton starts one process for each) and the native backend's
parameter `intra_op_thread_count`.
"""

import json
from pathlib import Path

import numpy as np
import openvino
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        path = Path(args["model_repository"]) / args["model_version"] / "model.onnx"
        self.name = args["model_name"]
        self.batches = config["max_batch_size"] > 0
        self.inputs = [tensor["name"] for tensor in config["input"]]
        self.outputs = [tensor["name"] for tensor in config["output"]]
        core = openvino.Core()
        self.compiled = core.compile_model(
            core.read_model(path),
            "CPU",
            {
                "INFERENCE_NUM_THREADS": int(
                    parameters.get("intra_op_thread_count", "0")
                ),  # 0: as many as there are cores
                # "dynamic": as the file says. OpenVINO's own default is bfloat16 where the CPU has it.
                "INFERENCE_PRECISION_HINT": parameters.get("inference_precision", "dynamic"),
                # Of models with 8-bit weights: how many neighbouring values are rounded together; 0: none are rounded.
                "DYNAMIC_QUANTIZATION_GROUP_SIZE": int(parameters.get("activation_group", "0")),
                "PERFORMANCE_HINT": "LATENCY",
                # The steps of an ensemble are separate processes: pinned threads would fight for the same cores.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self.request = self.compiled.create_infer_request()

    def execute(self, requests):
        """One response per request. A model that batches gets all requests as one batch, any other one by one."""
        if not self.batches:
            return [self.answer([request])[0] for request in requests]
        return self.answer(requests)

    def answer(self, requests):
        try:
            inputs = [self.arrays(request) for request in requests]
            outputs = self.run([np.concatenate(arrays) for arrays in zip(*inputs, strict=True)])
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

    def run(self, arrays):
        """One merged batch through the engine: output name -> array."""
        self.request.infer(dict(zip(self.inputs, arrays, strict=True)), share_inputs=True)
        return {name: self.request.get_tensor(name).data.copy() for name in self.outputs}
