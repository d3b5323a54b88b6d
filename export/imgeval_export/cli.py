"""`imgeval-export`: weights, model repositories and their verification. Parses, calls, prints."""

from __future__ import annotations

from pathlib import Path

import click

from imgeval.cli_errors import one_line_errors
from imgeval.embedded import paths

PROFILE = click.option("--profile", default="starter", show_default=True, help="Which profile.")
WEIGHTS = click.option(
    "--weights",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="IMGEVAL_WEIGHTS",
    help="Folder of weight files; default: in imgeval's cache folder.",
)


def _progress(line: str) -> None:
    click.echo(line, err=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="imgeval")
def main() -> None:
    """Get weights, and build the model repositories that Triton serves.

    Example: imgeval-export build --profile starter --output ./repository
    """


@main.command("list")
@WEIGHTS
@one_line_errors
def list_files(weights: Path | None) -> None:
    """List every weight file: who uses it, its licence, size, source and checksum, and whether it is here."""
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
    """
    from imgeval_export import weights as files

    fetched = files.require(profile, weights or paths.weights(), _progress, commercial_ok=commercial_ok)
    for name, path in fetched.items():
        click.echo(f"{name}: {path}")
    if commercial_ok:
        files.refuse_noncommercial(profile)


@main.command()
@PROFILE
@WEIGHTS
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the model repository; default: where the embedded server looks for it.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="OPTION=VALUE", help="Change a setting: sam_clip.points_per_side=4."
)
@click.option("--commercial-ok", is_flag=True, help="Refuse files that are not clearly free for commercial use.")
@click.option("--random-weights", is_flag=True, help="Stand-ins for checkpoints: proves arithmetic, makes no scores.")
@one_line_errors
def build(
    profile: str,
    weights: Path | None,
    output: Path | None,
    overrides: tuple[str, ...],
    commercial_ok: bool,
    random_weights: bool,
) -> None:
    """Build the model repository of a profile from its weight files.

    Example: imgeval-export build --profile cpu --set sam_clip.points_per_side=16
    """
    from imgeval_export.repository import BuildOptions, read_manifest
    from imgeval_export.repository import build as build_repository

    target = output or paths.repository(profile)
    options = BuildOptions(overrides, commercial_ok, random_weights)
    build_repository(profile, target, weights or paths.weights(), _progress, options)
    click.echo(f"built: {target} (fingerprint {read_manifest(target)['fingerprint']})")
