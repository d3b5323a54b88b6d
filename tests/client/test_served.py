"""What a server says of its metrics: read from its configuration, of this version, an older one and a broken one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from imgeval import Client, ServerFailedError, ServerUnavailableError
from imgeval.contract import METRIC_NAMES
from imgeval.served import METRICS_PARAMETER, ServedMetrics
from imgeval_export import about, profiles
from tests.fake_transport import FakeTransport

URL = "fake:1"


def config(text: str, **parameters: str) -> dict[str, Any]:
    given = {METRICS_PARAMETER: text, **parameters}
    return {"name": "imgeval", "parameters": {name: {"string_value": value} for name, value in given.items()}}


def told(profile: str, weights: str = "published", **parts: Any) -> dict[str, Any]:
    return config(about.metrics_text(profiles.get(profile, **parts), "seed-1", "f" * 16, weights))


@pytest.mark.parametrize("profile", profiles.NAMES)
def test_what_the_build_writes_is_read(profile: str) -> None:
    with Client(transport=FakeTransport(config=told(profile))) as client:
        served = client.metrics()
    expected = profiles.get(profile)
    assert (served.url, served.profile, served.preset, served.weights) == (URL, profile, "seed-1", "published")
    assert {name: metric.model for name, metric in served.metrics.items()} == expected.made_by
    assert served.missing == expected.missing
    assert sorted([*served.metrics, *served.missing]) == sorted(METRIC_NAMES)
    for metric in served.metrics.values():
        assert metric.range
        assert metric.citations
        assert metric.files
        assert all(file.source and file.license for file in metric.files)
    json.dumps(served.to_dict())


def test_licences_and_directions_of_what_is_served() -> None:
    starter = ServedMetrics.from_config(told("starter"), URL).metrics
    assert starter["clip"].licenses == ("Apache-2.0",)
    assert starter["clip"].commercial_use
    assert (starter["iqa"].lower_is_better, starter["iqa"].licenses) == (True, ("BSD-3-Clause",))
    full = ServedMetrics.from_config(told("full"), URL).metrics
    assert {name for name, metric in full.items() if metric.commercial_use} == {"aesthetic", "clip", "sam_clip"}
    assert full["qalign_quality"].licenses == ("MIT, disputed",)
    assert "Noncommercial" in full["iqa"].terms
    assert not full["iqa"].lower_is_better


def test_a_part_of_it() -> None:
    served = ServedMetrics.from_config(told("starter"), URL).only(("clip", "aesthetic"))
    assert (list(served.metrics), list(served.missing)) == (["clip"], ["aesthetic"])


def test_a_later_version_may_say_more() -> None:
    text = json.loads(about.metrics_text(profiles.get("starter"), "seed-1", "f" * 16, "published"))
    text["metrics"]["clip"]["colour"] = "blue"
    text["metrics"]["beauty"] = {}
    text["files"]["niqe_image_params.mat"]["colour"] = "blue"
    assert set(ServedMetrics.from_config(config(json.dumps(text)), URL).metrics) == {"clip", "sam_clip", "iqa"}


def test_an_older_repository_is_named_with_the_command() -> None:
    old = {"parameters": {"profile": {"string_value": "cpu"}}}
    for given in (old, {}):
        with (
            Client(transport=FakeTransport(config=given)) as client,
            pytest.raises(ServerFailedError, match="built by an older version; on its machine: imgeval-export build"),
        ):
            client.metrics()
    with pytest.raises(ServerFailedError, match="--profile cpu, then restart"):
        ServedMetrics.from_config(old, URL)


@pytest.mark.parametrize("text", ["", "no json", "[]", "{}", '{"metrics": {"clip": {}}, "files": {}, "missing": {}}'])
def test_what_is_illegible_is_an_error_of_the_server(text: str) -> None:
    with pytest.raises(ServerFailedError, match=f"{URL} describes its metrics illegibly"):
        ServedMetrics.from_config(config(text), URL)


def test_a_server_that_is_not_there() -> None:
    transport = FakeTransport(error=ServerUnavailableError("no server"))
    with Client(transport=transport) as client, pytest.raises(ServerUnavailableError):
        client.metrics()
