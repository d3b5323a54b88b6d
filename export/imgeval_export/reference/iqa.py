"""IQA-PyTorch as its authors run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyiqa
import torch
from PIL import Image


class ReferenceIqa:
    """A metric of pyiqa on a checkpoint file, loaded by hand into a network that pyiqa built without one."""

    def __init__(self, name: str, checkpoint: Path) -> None:
        self.metric = pyiqa.create_metric(name, device=torch.device("cpu"), pretrained=False)
        self.metric.net.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True))

    def score(self, image: Image.Image) -> float:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255
        with torch.inference_mode():
            return float(self.metric(pixels).item())
