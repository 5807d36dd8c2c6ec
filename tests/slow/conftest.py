"""Slow tests end in time on a machine that has little of it, such as CI's."""

from __future__ import annotations

import os
import time

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that would begin after FINLAB_SLOW_UNTIL, in seconds since 1970."""
    until = float(os.environ.get("FINLAB_SLOW_UNTIL") or "inf")
    if time.time() > until:
        pytest.skip("the time for slow tests is over on this machine: make test-slow runs it")
