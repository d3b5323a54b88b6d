"""What a repository tells of its metrics to those who connect to its server: the text that `imgeval.served` reads.

It stands in a parameter of the ensemble's configuration, which is no part of the fingerprint: another wording makes no
other values.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from imgeval_export.manifest import manifest

if TYPE_CHECKING:
    from imgeval_export.profile import Profile

CLIP = (
    "Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, arXiv:2103.00020"
)
LAION = "Schuhmann, Improved Aesthetic Predictor, 2022, github.com/christophschuhmann/improved-aesthetic-predictor"
Q_ALIGN = (
    "Wu et al., Q-Align: Teaching LMMs for Visual Scoring via Discrete Text-Defined Levels, 2023, arXiv:2312.17090"
)
SAM = "Kirillov et al., Segment Anything, ICCV 2023, arXiv:2304.02643"
KEYBERT = "Grootendorst, KeyBERT: Minimal keyword extraction with BERT, 2020, doi:10.5281/zenodo.4461265"
SBERT = (
    "Reimers and Gurevych, Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks, EMNLP 2019, arXiv:1908.10084"
)
MINILM = (
    "Wang et al., MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers, "
    "NeurIPS 2020, arXiv:2002.10957"
)
MUSIQ = "Ke et al., MUSIQ: Multi-scale Image Quality Transformer, ICCV 2021, arXiv:2108.05997"
IQA_PYTORCH = "Chen and Mo, IQA-PyTorch: PyTorch Toolbox for Image Quality Assessment, 2022"
NIQE = (
    'Mittal, Soundararajan and Bovik, Making a "Completely Blind" Image Quality Analyzer, '
    "IEEE Signal Processing Letters 20(3), 2013"
)
CONSE = "Norouzi et al., Zero-Shot Learning by Convex Combination of Semantic Embeddings, ICLR 2014, arXiv:1312.5650"
EFFICIENTNET = (
    "Tan and Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, ICML 2019, arXiv:1905.11946"
)
FELZENSZWALB = "Felzenszwalb and Huttenlocher, Efficient Graph-Based Image Segmentation, IJCV 59(2), 2004"

IQA_PYTORCH_TERMS = "IQA-PyTorch, which serves it: PolyForm Noncommercial 1.0.0, and NTU S-Lab License 1.0 for parts"


@dataclass(frozen=True)
class About:
    """What to know of a metric before its values are used."""

    range: str  # of its raw values
    files: tuple[str, ...]  # its weight files, by their names in weights/manifest.json
    citations: tuple[str, ...]
    lower_is_better: bool = False
    terms: str = ""  # of what serves it, where they are no free software's


def metrics_text(profile: Profile, preset: str, fingerprint: str, weights: str) -> str:
    """The JSON object that the ensemble's configuration carries: this profile's metrics, and what is missing."""
    used = {name for about in profile.about.values() for name in about.files}
    files = {
        file.name: {
            "license": file.license,
            "commercial_use": file.commercial_use,
            "source": file.source.address,
            "note": file.note,
        }
        for file in manifest()
        if file.name in used
    }
    content: Mapping[str, object] = {
        "profile": profile.name,
        "preset": preset,
        "fingerprint": fingerprint,
        "weights": weights,
        "metrics": {
            name: {
                "model": profile.made_by[name],
                "range": about.range,
                "lower_is_better": about.lower_is_better,
                "citations": about.citations,
                "files": about.files,
                "terms": about.terms,
            }
            for name, about in profile.about.items()
        },
        "missing": profile.missing,
        "files": files,
    }
    return json.dumps(content)
