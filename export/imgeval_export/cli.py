"""`imgeval-export`: weights, model repositories and their verification. Parses, calls, prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from imgeval.cli_errors import Commands, one_line_errors
from imgeval.embedded import paths
from imgeval.errors import InvalidInputError
from imgeval_export.caches import DEFAULT_MIB

PROFILE = click.option("--profile", default="starter", show_default=True, help="Which profile.")
WEIGHTS = click.option(
    "--weights",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="IMGEVAL_WEIGHTS",
    help="Folder of weight files; default: in imgeval's cache folder.",
)


def build_options(command: Callable[..., None]) -> Callable[..., None]:
    """What `build` and `verify` share: settings and optional parts."""
    for option in (
        click.option(
            "--precision",
            multiple=True,
            metavar="[MODEL=]P",
            help="Of the large networks, or of one: fp32 (default), bf16, int8; docs/verify.md has the price of each. "
            "With --device gpu: fp32, fp16, bf16.",
        ),
        click.option("--without", "without_parts", multiple=True, help="Leave an optional part out: iqa, qalign."),
        click.option("--with", "with_parts", multiple=True, help="Add an optional part: iqa, qalign."),
        click.option(
            "--set", "overrides", multiple=True, metavar="OPTION=VALUE", help="A setting: sam_clip.points_per_side=4."
        ),
    ):
        command = option(command)
    return command


def _progress(line: str) -> None:
    click.echo(line, err=True)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="imgeval")
def main() -> None:
    """Get weights, and build the model repositories that Triton serves.

    Example: imgeval-export build --profile starter --output ./repository
    """


@main.command("list")
@WEIGHTS
@one_line_errors
def list_files(weights: Path | None) -> None:
    """List every weight file: who uses it, its licence, size, source and checksum, and whether it is here.

    Example: imgeval-export list
    """
    from imgeval_export import weights as files

    for file in files.manifest():
        click.echo(files.describe(file, weights or paths.weights()))


@main.command()
@PROFILE
@WEIGHTS
@click.option("--commercial-ok", is_flag=True, help="Refuse files that are not clearly free for commercial use.")
@one_line_errors
def fetch(profile: str, weights: Path | None, commercial_ok: bool) -> None:
    """Download the weight files of a profile that are not here, and check them all.

    Mirrors: HF_ENDPOINT for the Hugging Face hub, IMGEVAL_MIRROR for plain addresses. No network: IMGEVAL_OFFLINE=1.

    Example: imgeval-export fetch --profile cpu
    """
    from imgeval_export import weights as files

    fetched = files.require(profile, weights or paths.weights(), _progress, commercial_ok=commercial_ok)
    for name, path in fetched.items():
        click.echo(f"{name}: {path}")
    if commercial_ok:
        files.refuse_noncommercial(files.manifest(profile))


@main.command()
@PROFILE
@WEIGHTS
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the model repository; default: where the embedded server looks for it.",
)
@build_options
@click.option("--device", default="cpu", show_default=True, help="Where the networks run: cpu or gpu.")
@click.option("--target", default="embedded", show_default=True, help="What serves it: embedded or container.")
@click.option("--commercial-ok", is_flag=True, help="Refuse files that are not clearly free for commercial use.")
@click.option("--random-weights", is_flag=True, help="Stand-ins for checkpoints: proves arithmetic, makes no scores.")
@click.option("--instances", type=int, help="Of each model that works for a while; default: by cores and memory.")
@click.option("--threads", type=int, help="Of each instance of a network; default: the cores, shared by the instances.")
@click.option(
    "--cache-mib",
    default=DEFAULT_MIB,
    show_default=True,
    help="Memory in which each costly model keeps what it has computed; 0: off.",
)
@one_line_errors
def build(
    profile: str,
    weights: Path | None,
    output: Path | None,
    overrides: tuple[str, ...],
    with_parts: tuple[str, ...],
    without_parts: tuple[str, ...],
    precision: tuple[str, ...],
    device: str,
    target: str,
    commercial_ok: bool,
    random_weights: bool,
    instances: int | None,
    threads: int | None,
    cache_mib: int,
) -> None:
    """Build the model repository of a profile from its weight files.

    Example: imgeval-export build --profile cpu --set sam_clip.points_per_side=16
    """
    from imgeval.embedded import server
    from imgeval_export.repository import BuildOptions, read_manifest
    from imgeval_export.repository import build as build_repository

    if target == "container" and output is None:
        raise InvalidInputError(
            "--output", "got none; needed with --target container: the folder to put the repository in"
        )
    folder = output or paths.repository(profile)
    options = BuildOptions(
        overrides=overrides,
        with_parts=with_parts,
        without_parts=without_parts,
        precision=precision,
        device=device,
        target=target,
        commercial_ok=commercial_ok,
        random_weights=random_weights,
        instances=instances,
        threads=threads,
        cache_mib=cache_mib,
    )
    build_repository(profile, folder, weights or paths.weights(), _progress, options)
    if running := server.find(profile=profile):
        click.echo(f"{running.url} serves the previous build until it is restarted: imgeval-server stop", err=True)
    click.echo(f"built: {folder} (fingerprint {read_manifest(folder)['fingerprint']})")


@main.command()
@PROFILE
@WEIGHTS
@build_options
@click.option("--random-weights", is_flag=True, help="Stand-ins for the checkpoints, made once in the weights folder.")
@click.option(
    "--images", default=3, show_default=True, type=click.IntRange(2, 4), help="How many photos to compare on."
)
@click.option(
    "--also",
    multiple=True,
    metavar="P",
    help="Then compare in this precision too: bf16, int8. Upstream computes once for all.",
)
@one_line_errors
def verify(
    profile: str,
    weights: Path | None,
    overrides: tuple[str, ...],
    with_parts: tuple[str, ...],
    without_parts: tuple[str, ...],
    precision: tuple[str, ...],
    random_weights: bool,
    images: int,
    also: tuple[str, ...],
) -> None:
    """Compare the models of a profile, and its metrics over the ensemble, with the upstream libraries.

    Builds a repository of its own and starts a server of its own for it. Exit code 1 where a comparison fails.

    Example: imgeval-export verify --profile cpu --random-weights --set sam_clip.points_per_side=4
    """
    from imgeval_export.repository import BuildOptions
    from imgeval_export.verify import verify_profile

    options = BuildOptions(overrides, with_parts, without_parts, precision, random_weights=random_weights)
    comparisons = verify_profile(profile, weights or paths.weights(), options, images, _progress, also)
    header = f"{'compared':44}{'max diff':>12}{'mean diff':>12}{'spread':>12}{'tolerance':>12}  verdict"
    click.echo(header)
    verdicts = []
    for each in comparisons:
        values = (each.max_difference, each.mean_difference, each.spread, each.tolerance)
        click.echo(f"{each.name:44}" + "".join(f"{value:12.3g}" for value in values) + f"  {each.verdict}")
        verdicts.append(each.verdict)
    failed = sum(verdict not in ("pass", "drift") for verdict in verdicts)
    click.echo(f"{len(verdicts) - failed} of {len(verdicts)} comparisons hold")
    if failed or not verdicts:
        raise SystemExit(1)
