"""A cluster for each module that runs histories."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.containment.cluster import Cluster, missing


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if reason := missing():
        pytest.skip(reason)
    with Cluster() as found:
        yield found
