"""Repeated work: one image under many prompts and one prompt over many images, with the caches and without."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np

from benchmarks import options, pictures, serving
from benchmarks.document import table
from benchmarks.overhead import PROMPT_TEXT, TIMEOUT_S
from benchmarks.timing import in_turns, ratio
from imgeval.contract import DETAILS, ENSEMBLE, IMAGE, PROMPT, SCORE
from imgeval.embedded import paths
from imgeval.transport import GrpcTransport
from imgeval_export.caches import DEFAULT_MIB
from imgeval_export.repository import BuildOptions, build

SIDE_PX = 512


@click.command()
@click.option("--profile", default="starter", show_default=True)
@click.option("--precision", multiple=True, metavar="[MODEL=]P", help="As imgeval-export build.")
@click.option("--set", "overrides", multiple=True, metavar="OPTION=VALUE", help="As imgeval-export build.")
@click.option("--random-weights", is_flag=True, help="Stand-ins for checkpoints: speeds, no scores.")
@options.rounds(20)
@options.reported("repeat")
def command(
    profile: str, precision: tuple[str, ...], overrides: tuple[str, ...], random_weights: bool, rounds: int
) -> options.Report:
    """Requests for all metrics that repeat an image, a prompt, or nothing.

    Example: python -m benchmarks repeat --profile starter
    """
    chosen = BuildOptions(overrides=overrides, precision=precision, random_weights=random_weights)
    with tempfile.TemporaryDirectory(prefix="imgeval-benchmark-") as scratch:
        folders = {mib: Path(scratch) / str(mib) for mib in (0, DEFAULT_MIB)}
        for mib, folder in folders.items():
            built = BuildOptions(**{**vars(chosen), "cache_mib": mib})
            build(profile, folder, paths.weights(), lambda line: click.echo(line, err=True), built)
        setups = {mib: serving.Setup.of(folder) for mib, folder in folders.items()}
        with serving.served(setups[0]) as without, serving.served(setups[DEFAULT_MIB]) as with_caches:
            transports = {"off": GrpcTransport(without.url), "on": GrpcTransport(with_caches.url)}
            rows = [_row(name, transports, rounds) for name in CASES]
            for transport in transports.values():
                transport.close()
    headings = ["what repeats", "caches off, ms", "caches on, ms", "off / on"]
    return options.Report(
        f"{setups[0].notice}\nSCORE and DETAILS of {SIDE_PX} x {SIDE_PX} px JPEGs, one at a time, on two servers in "
        f"turns, medians (and quartiles) of {rounds} rounds\n\n{table(headings, rows)}",
        setups[0].subject,
    )


# Of each case, whether image and prompt are new in every request.
CASES = {"the image, new prompts": (False, True), "the prompt, new images": (True, False), "nothing": (True, True)}


def _row(name: str, transports: dict[str, GrpcTransport], rounds: int) -> list[str]:
    # Numbers of its own for each case: what one has sent is known to the caches in the next.
    first, calls = list(CASES).index(name) * (rounds + 1), rounds + 1
    sides = {
        side: _requests(transport, range(first, first + calls), *CASES[name]) for side, transport in transports.items()
    }
    times = in_turns(sides, rounds)
    return [
        name,
        times["off"].in_ms(),
        times["on"].in_ms(),
        ratio(times["off"].seconds, times["on"].seconds),
    ]


def _requests(transport: GrpcTransport, numbers: range, new_image: bool, new_prompt: bool) -> Callable[[], object]:
    """A request that differs from the one before as said, for each number."""
    images = {number: pictures.jpeg(0, SIDE_PX + number, SIDE_PX) for number in numbers}  # before anything is timed
    left = iter(numbers)

    def ask() -> object:
        number = next(left)
        image = images[number if new_image else numbers[0]]
        prompt = f"{PROMPT_TEXT}, number {number if new_prompt else numbers[0]}"
        inputs = {
            IMAGE.name: np.array([[image]], dtype=np.object_),
            PROMPT.name: np.array([[prompt.encode()]], dtype=np.object_),
        }
        return transport.infer(ENSEMBLE, inputs, [SCORE.name, DETAILS.name], TIMEOUT_S)

    return ask
