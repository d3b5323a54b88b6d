"""Every error that imgeval raises, in one tree.

    ImgevalError
    +-- InvalidInputError        an image, a prompt or an option that cannot be scored   (exit code 2)
    +-- ServerUnavailableError   no server that is reachable and ready                   (exit code 3)
    |   +-- EmbeddedServerError  the embedded server could not be started or stopped
    +-- ServerFailedError        a server that was ready failed on this request          (exit code 4)
    |   +-- DeadlineExceededError
    |   +-- ServerLostError
    +-- BuildError               weights or a model repository that cannot be made       (exit code 3)
    +-- MissingPackageError      an installed package that a command or an input needs   (exit code 3)

Foreign exceptions (gRPC, Pillow, the file system) are turned into these where they enter, and nowhere else: `image.py`
for decoding, `transport.py` for gRPC. A message is one line that says what was got and what is allowed.
"""

from __future__ import annotations


class ImgevalError(Exception):
    """Base of every error in this package; `exit_code` is what the command line exits with."""

    exit_code = 4


class InvalidInputError(ImgevalError):
    """An input that cannot be scored. `field` names it: IMAGE, PROMPT or the option's name."""

    exit_code = 2

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class ServerUnavailableError(ImgevalError):
    """No server that is reachable and ready; nothing was scored."""

    exit_code = 3


class EmbeddedServerError(ServerUnavailableError):
    """The embedded server could not be started or stopped."""


class ServerFailedError(ImgevalError):
    """The server accepted the request and then failed, or died while working on it."""

    exit_code = 4


class DeadlineExceededError(ServerFailedError):
    """The server gave no answer within the deadline."""


class ServerLostError(ServerFailedError):
    """The server died or was stopped while it worked on the request; when it is back it may answer."""


class BuildError(ImgevalError):
    """Weights are missing or wrong, or a model repository could not be made from them."""

    exit_code = 3


class MissingPackageError(ImgevalError):
    """Something was asked for that needs a package which is not installed."""

    exit_code = 3


def install_hint(extra: str) -> str:
    """How to install an extra: from this project's folder, since the registry has another package of this name."""
    return f"in imgeval's folder: pip install -c constraints.txt '.[{extra}]'"
