"""A failure that repeats is logged at the first, and later at most once a minute, with its count."""

import logging

import pytest

from traitwatch.failures import FailureLog

logger = logging.getLogger("traitwatch.test")


def test_the_first_failure_is_logged_and_then_at_most_one_a_minute_with_the_count(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 1000.0
    log = FailureLog(logger, "It failed.", clock=lambda: now)
    for second in range(150):
        now = 1000.0 + second
        log.failed(ValueError("why"))
    assert [record.getMessage() for record in caplog.records] == [
        "It failed.",
        "It failed. (60 times in the last 60 s)",
        "It failed. (60 times in the last 60 s)",
    ]
    assert caplog.records[0].exc_info is not None
    now += 10_000
    log.failed()
    assert caplog.records[-1].getMessage() == "It failed. (30 times in the last 10029 s)"
