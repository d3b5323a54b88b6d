"""What the benchmarks serve and look at: repositories, servers, their memory and their statistics."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import click

from imgeval.contract import DETAILS_MODEL, METRIC_NAMES
from imgeval.embedded import paths, server
from imgeval.inputs import check_metrics
from imgeval_export.repository import BuildOptions, build, options_of, read_manifest

SAMPLE_INTERVAL_S = 0.5


@dataclass(frozen=True)
class Setup:
    """A repository to measure. Where its weights are random, the figures are speeds, and no scores."""

    repository: Path
    profile: str
    weights: Path
    weights_kind: str  # "published" or "random"
    options: BuildOptions  # what the repository was built with
    metrics: tuple[str, ...]  # that it serves

    @classmethod
    def of(cls, repository: Path) -> Setup:
        """What there is to know of a repository, read now: it may be there for the time being only."""
        manifest = read_manifest(repository)
        card = json.loads((repository / DETAILS_MODEL / "1" / "card.json").read_text(encoding="utf-8"))
        metrics = tuple(name for name in METRIC_NAMES if name in card["models"])
        kind = manifest["weights_kind"]
        return cls(repository, manifest["profile"], paths.weights(), kind, options_of(manifest), metrics)

    def check(self, metrics: str) -> tuple[str, ...]:
        """The metrics of "a,b", all of which the repository must serve."""
        names = check_metrics([name.strip() for name in metrics.split(",")])
        if absent := [name for name in names if name not in self.metrics]:
            raise click.UsageError(f"--metrics: got {absent[0]}; this repository serves {', '.join(self.metrics)}")
        return names

    @property
    def subject(self) -> str:
        """Profile and precision, in a few words."""
        return " ".join([self.profile, *self.options.precision])

    @property
    def notice(self) -> str:
        if self.weights_kind == "published":
            return ""
        return f"weights are {self.weights_kind}: these are speeds, and nothing here is a score\n"


@dataclass(frozen=True)
class Chosen:
    """What the options of a command say: a repository that is built, or how to build one."""

    profile: str
    repository: Path | None
    precision: tuple[str, ...]
    without_parts: tuple[str, ...]
    overrides: tuple[str, ...]
    random_weights: bool


@contextlib.contextmanager
def setup(chosen: Chosen, *, cache_mib: int = 0) -> Iterator[Setup]:
    """The chosen repository, or one built for the time being; without caches, which would answer repeated work."""
    repository = chosen.repository
    if repository is not None:
        found = read_manifest(repository)
        if not found:
            raise click.UsageError(f"--repository: {repository} is no model repository")
        if (built_with := found.get("options", {}).get("cache_mib", 0)) != cache_mib:
            raise click.UsageError(
                f"--repository: {repository} was built with --cache-mib {built_with}; allowed: --cache-mib {cache_mib}"
            )
        yield Setup.of(repository)
        return
    options = BuildOptions(
        overrides=chosen.overrides,
        without_parts=chosen.without_parts,
        precision=chosen.precision,
        random_weights=chosen.random_weights,
        cache_mib=cache_mib,
    )
    with tempfile.TemporaryDirectory(prefix="imgeval-benchmark-") as scratch:
        built = build(chosen.profile, Path(scratch) / "repository", paths.weights(), _say, options)
        yield Setup.of(built)


@contextlib.contextmanager
def served(given: Setup) -> Iterator[server.EmbeddedServer]:
    """A server of the repository on a free port, which has answered once."""
    _say("starting a server")
    running = server.start(given.repository, f"{given.profile}-benchmark", port=server.free_port())
    try:
        yield running
    finally:
        server.stop(running)


def _say(line: str) -> None:
    click.echo(line, err=True)


# --- memory ----------------------------------------------------------------------------------------------------------
def server_bytes(running: server.EmbeddedServer) -> int:
    """Memory of all processes of a server, shared pages counted once (PSS)."""
    return sum(_proportional_bytes(pid) for pid in _family(running.pid))


def own_bytes() -> int:
    """Memory of this process (RSS)."""
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


def _family(pid: int) -> list[int]:
    """A process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        children.setdefault(int(fields[1]), []).append(int(entry.parent.name))
    found = [pid]
    for each in found:
        found += children.get(each, [])
    return found


def _proportional_bytes(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    line = next((line for line in text.splitlines() if line.startswith("Pss:")), "Pss: 0 kB")
    return int(line.split()[1]) * 1024


@contextlib.contextmanager
def peak(measure: Callable[[], int]) -> Iterator[list[int]]:
    """Sample `measure` in the background; the list's only element is the largest value so far."""
    largest, stop = [0], threading.Event()

    def sample() -> None:
        while not stop.wait(SAMPLE_INTERVAL_S):
            largest[0] = max(largest[0], measure())

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield largest
    finally:
        stop.set()
        thread.join()


def cpu_seconds(running: server.EmbeddedServer) -> float:
    """Processor time of all processes of a server so far."""
    total = 0
    for pid in _family(running.pid):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


# --- Triton's statistics ---------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class ModelStatistics:
    """What one model has done: requests, executions (batches), and milliseconds in all."""

    requests: int
    executions: int
    queue_ms: float
    input_ms: float
    infer_ms: float
    output_ms: float

    def __add__(self, other: ModelStatistics) -> ModelStatistics:
        return ModelStatistics(*(getattr(self, name) + getattr(other, name) for name in vars(self)))

    def __sub__(self, before: ModelStatistics) -> ModelStatistics:
        return ModelStatistics(*(getattr(self, name) - getattr(before, name) for name in vars(self)))


NOTHING = ModelStatistics(0, 0, 0, 0, 0, 0)


def statistics(url: str) -> dict[str, ModelStatistics]:
    """Of every model, since the server started."""
    import tritonclient.grpc as triton

    with triton.InferenceServerClient(url) as client:
        models = client.get_inference_statistics().model_stats
    return {
        model.name: ModelStatistics(
            model.inference_stats.success.count,
            model.execution_count,
            model.inference_stats.queue.ns / 1e6,
            model.inference_stats.compute_input.ns / 1e6,
            model.inference_stats.compute_infer.ns / 1e6,
            model.inference_stats.compute_output.ns / 1e6,
        )
        for model in models
    }


def since(url: str, before: Mapping[str, ModelStatistics]) -> dict[str, ModelStatistics]:
    """What each model has done since `before`; those that did nothing are left out."""
    changes = {name: now - before.get(name, NOTHING) for name, now in statistics(url).items()}
    return {name: change for name, change in changes.items() if change.requests}


def wait_until_quiet(running: server.EmbeddedServer, seconds: float = 1.0) -> None:
    """Let what a measurement left under way come to rest."""
    before = cpu_seconds(running)
    for _ in range(30):
        time.sleep(seconds)
        now = cpu_seconds(running)
        if now - before < 0.05 * seconds:
            return
        before = now
