"""The one way in which a metric says that it has no value for an image."""

from __future__ import annotations


class MetricUnavailable(Exception):
    """This metric cannot be computed for this request; `str()` is the reason, in one line.

    Not a failure: the caller reports the metric as missing, with the reason, and scores the rest.
    """
