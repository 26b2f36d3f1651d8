"""`make demo-alerts`, unchanged. It succeeds if the alert comes within a minute and is resolved."""

import subprocess

import pytest

from tests.support.serving import environment, traitwatch

pytestmark = pytest.mark.engine


def test_the_alert_comes_and_goes() -> None:
    command = traitwatch("demo-alerts")
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    quiet, _, after = done.stdout.partition("chats after paternalistic replies ...")
    assert "... answered; no alerts." in quiet
    firing, _, resolved = after.partition("RESOLVED TraitSpikesFast, severity page")
    assert "FIRING TraitSpikesFast, severity page" in firing
    assert "turns to paternalism" in firing
    assert "turns to paternalism" in resolved
    assert "The alert came and went." in resolved
