"""imgeval: how good a generated image is, and how well it matches its prompt.

    from imgeval import Client
    with Client("localhost:8001") as client:
        result = client.score("image.jpg", "a red car in the snow")
    print(result.score, result.metrics["clip"].raw)

Names are imported when they are first used, so that importing the package costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imgeval.client import AsyncClient, Client
    from imgeval.compare import Matrix, Ranked, Ranking
    from imgeval.connection import Connection
    from imgeval.errors import (
        BuildError,
        DeadlineExceededError,
        EmbeddedServerError,
        ImgevalError,
        InvalidInputError,
        MissingPackageError,
        ServerFailedError,
        ServerLostError,
        ServerUnavailableError,
    )
    from imgeval.explanation import Explanation, KeywordMatch
    from imgeval.many import Outcome
    from imgeval.result import MetricValue, Result
    from imgeval.run_comparison import RunComparison
    from imgeval.served import ServedMetric, ServedMetrics

__all__ = [
    "AsyncClient",
    "BuildError",
    "Client",
    "Connection",
    "DeadlineExceededError",
    "EmbeddedServerError",
    "Explanation",
    "ImgevalError",
    "InvalidInputError",
    "KeywordMatch",
    "Matrix",
    "MetricValue",
    "MissingPackageError",
    "Outcome",
    "Ranked",
    "Ranking",
    "Result",
    "RunComparison",
    "ServedMetric",
    "ServedMetrics",
    "ServerFailedError",
    "ServerLostError",
    "ServerUnavailableError",
]

_MODULES = {  # of the names that are no errors
    "AsyncClient": "client",
    "Client": "client",
    "Connection": "connection",
    "Explanation": "explanation",
    "KeywordMatch": "explanation",
    "Matrix": "compare",
    "MetricValue": "result",
    "Outcome": "many",
    "Ranked": "compare",
    "Ranking": "compare",
    "Result": "result",
    "RunComparison": "run_comparison",
    "ServedMetric": "served",
    "ServedMetrics": "served",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = _MODULES.get(name, "errors")
    return getattr(importlib.import_module(f"imgeval.{module}"), name)
