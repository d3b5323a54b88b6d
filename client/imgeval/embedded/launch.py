"""Profile -> model repository, built if there is none or an old one -> running server."""

from __future__ import annotations

from collections.abc import Callable

from imgeval.embedded import paths, server
from imgeval.errors import EmbeddedServerError, install_hint

DEFAULT_PROFILE = "starter"
Progress = Callable[[str], None]


def launch(
    profile: str = DEFAULT_PROFILE,
    *,
    port: int | None = None,
    host: str = server.LOOPBACK,
    idle_timeout_s: float | None = None,
    progress: Progress = lambda line: None,
) -> server.EmbeddedServer:
    """A running server for this profile: the one that there is, else a new one.

    Raises:
        BuildError: the repository cannot be made; the message says what is missing and how to get it.
        EmbeddedServerError: the server cannot start, or the port runs another profile.
    """
    server.check_host(host)
    with server.start_lock():
        if there := server.find(port=port, profile=profile):
            return there
        try:
            from imgeval_export.repository import ensure
        except ImportError as error:
            raise EmbeddedServerError(
                f"building a model repository needs the packages of the embedded extra ({error}): "
                + install_hint("embedded")
            ) from error
        repository = ensure(profile, paths.repository(profile), paths.weights(), progress)
        progress(f"starting the embedded Triton server, profile {profile}")
        return server.start(repository, profile, port=port, host=host, idle_timeout_s=idle_timeout_s)
