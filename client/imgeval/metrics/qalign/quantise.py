"""Weight-only quantisation of the language model's matrices, 92 % of all parameters, to 8 or 4 bits.

Rows are cut into groups; a group is stored as whole numbers in -127..127 or -7..7 and one scale, which is its largest
magnitude / 127 or / 7. A matrix is turned back into the model's precision each time it is used. The vision part, the
embedding and the head stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from imgeval.errors import BuildError
from imgeval.metrics.qalign.model import QAlignModel


@dataclass(frozen=True)
class Quantisation:
    """`bits` per weight, and how many weights of a row share a scale of 16 or 32 bits."""

    bits: int
    group: int = 128

    def __post_init__(self) -> None:
        if self.bits not in (4, 8) or self.group < 2 or self.group % 2:
            raise BuildError(f"quantisation is 4 or 8 bits in groups of an even size, not {self}")

    @property
    def largest(self) -> int:
        """The largest whole number; the smallest is its negative."""
        return (1 << self.bits - 1) - 1


class QuantisedLinear(nn.Module):
    """A linear layer without bias, (..., in) -> (..., out), whose matrix is set by `store`."""

    codes: Tensor  # (out, groups, group) int8, or (out, groups, group / 2) uint8 with two numbers per byte
    scales: Tensor  # (out, groups, 1)

    def __init__(self, how: Quantisation) -> None:
        super().__init__()
        self.how = how
        self.register_buffer("codes", None)
        self.register_buffer("scales", None)

    def store(self, weight: Tensor, dtype: torch.dtype) -> None:
        """Quantise `weight` (out, in); `dtype` is the precision of the scales.

        The numbers are chosen for the scales as stored, so rounding a scale adds no error of its own.
        """
        if weight.shape[1] % self.how.group:
            raise BuildError(f"a matrix {tuple(weight.shape)} does not divide into groups of {self.how.group} per row")
        groups = weight.float().reshape(len(weight), -1, self.how.group)  # (out, groups, group)
        # tiny: a group of zeros has codes of zero, whatever the scale, but not 0 / 0
        scales = (groups.abs().amax(-1, keepdim=True) / self.how.largest).to(dtype)
        scales = scales.clamp(min=torch.finfo(dtype).tiny)
        codes = (groups / scales.float()).round().clamp(-self.how.largest, self.how.largest).to(torch.int8)
        self.codes, self.scales = pack(codes) if self.how.bits == 4 else codes, scales

    def weight(self, dtype: torch.dtype) -> Tensor:
        """The matrix (out, in), as it was up to rounding."""
        numbers = (
            unpack(self.codes, dtype) if self.how.bits == 4 else self.codes.to(dtype)
        )  # a copy: codes are integers
        return numbers.mul_(self.scales.to(dtype)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight(x.dtype))


def pack(codes: Tensor) -> Tensor:
    """int8 (..., 2 n) in -8..7 -> uint8 (..., n): the first half in the low four bits, the second in the high ones."""
    low, high = (codes + 8).to(torch.uint8).chunk(2, dim=-1)
    return low | high << 4


def unpack(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """Inverse of `pack`, (..., n) -> (..., 2 n) in any signed `dtype`."""
    half = packed.shape[-1]
    numbers = torch.empty(*packed.shape[:-1], 2 * half, dtype=dtype, device=packed.device)
    numbers[..., :half] = packed & 15
    numbers[..., half:] = packed >> 4
    return numbers.sub_(8)


def quantise_layers(model: QAlignModel, how: Quantisation) -> None:
    """Replace the matrices of the language model's layers, in place.

    A matrix that is on the meta device becomes an empty QuantisedLinear, to be filled while a checkpoint is read: the
    model then never exists in full precision.
    """
    for layer in model.model.layers:
        for module in list(layer.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, nn.Linear):
                    quantised = QuantisedLinear(how)
                    if not child.weight.is_meta:
                        quantised.store(child.weight, child.weight.dtype)
                    setattr(module, name, quantised)
