"""`GET /v1/traits` describes the loaded traits, and serves the report beside a vector."""

import asyncio
import dataclasses
import datetime
import gc
import json
import weakref
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from prometheus_client import CollectorRegistry

from tests.support.traits import served_trait, uncalibrated
from traitwatch.card import LayerCalibration, LayerVerification, Verification
from traitwatch.vectors import PersonaVector
from traitwatch_server.app import routes
from traitwatch_server.app.draining import Draining
from traitwatch_server.app.keys import Keys
from traitwatch_server.app.routes import Listing, Serving, add_routes, describe, report_of
from traitwatch_server.metrics import Metrics
from traitwatch_server.monitor import Monitor
from traitwatch_server.recording.spike_log import SpikeLog
from traitwatch_server.responses.schema import TraitInfo
from traitwatch_server.traits import ServedTrait, trait_set

_VERIFICATION = Verification(
    layers=[LayerVerification(layer=layer, norm=1.0, auc=0.5 + layer / 10) for layer in range(4)],
    num_pos=3,
    num_neg=3,
    better_than_null=True,
    verdict="Good.",
    date=datetime.date(2026, 1, 1),
)


def _with(trait: ServedTrait, *, vector: list[float] | None = None, path: Path | None = None) -> ServedTrait:
    """Return the verified trait with another vector (the same in every layer) or another path."""
    assert trait.vector.card is not None
    card = trait.vector.card.model_copy(update={"verification": _VERIFICATION, "best_layer": 3})
    values = np.tile(np.array(vector or [1, 1, 1, 1], dtype=np.float32), (4, 1))
    verified = PersonaVector(trait.name, values, card, path or trait.vector.path)
    return dataclasses.replace(trait, vector=verified)


def test_a_trait_is_described_with_layer_calibration_and_threshold() -> None:
    listed = describe([served_trait("a"), uncalibrated(served_trait("b"))])
    assert [trait["id"] for trait in listed] == ["a", "b"]
    assert listed[0]["layer"] == 2
    assert listed[0]["threshold"] == {"z": 2.0, "rate": 0.01}
    assert listed[0]["calibration"] == LayerCalibration(mean=1.0, std=2.0)
    assert listed[0]["calibration_date"] == "2026-01-01"
    assert listed[1]["sha256"] == listed[0]["sha256"]
    assert listed[1]["calibration"] is listed[1]["threshold"] is listed[1]["calibration_date"] is None


def test_the_verification_is_that_of_the_served_layer() -> None:
    (listed,) = describe([_with(served_trait("a", layer=2))])
    assert listed["verification"] == {"auc": 0.7, "best_layer": 3, "better_than_null": True, "verdict": "Good."}


def test_a_trait_that_was_never_verified_has_no_verification_fields() -> None:
    listed = describe([served_trait("a"), uncalibrated(served_trait("b"))])
    assert [trait["verification"] for trait in listed] == [None, None]


def test_cosines_are_listed_only_between_traits_of_one_layer() -> None:
    traits = [
        _with(served_trait("a"), vector=[1, 0, 0, 0]),
        _with(served_trait("b"), vector=[-2, 0, 0, 0]),
        _with(served_trait("c"), vector=[3, 3, 0, 0]),
        served_trait("elsewhere", layer=3),
    ]
    listed = {trait["id"]: trait["cosines"] for trait in describe(traits)}
    assert listed["a"] == {"b": -1.0, "c": pytest.approx(0.7071)}
    assert listed["elsewhere"] == {}


def test_the_report_beside_the_vector_is_served_without_leave_to_run_scripts(tmp_path: Path) -> None:
    trait = _with(served_trait("a"), path=tmp_path / "a_response_avg_diff.pt")
    report_of(trait).write_text("<!DOCTYPE html><title>a</title><script>alert(1)</script>")
    assert describe([trait])[0]["report"] == "/v1/traits/a/report"
    response = _client(trait).get("/v1/traits/a/report")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert response.text.startswith("<!DOCTYPE html>")
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src" not in policy


def test_the_error_for_a_missing_report_names_the_command(tmp_path: Path) -> None:
    trait = _with(served_trait("a"), path=tmp_path / "a.pt")
    assert describe([trait])[0]["report"] is None
    response = _client(trait).get("/v1/traits/a/report")
    assert response.status_code == 404
    assert "traitwatch report" in response.json()["error"]["message"]


def test_a_report_of_a_trait_that_is_not_loaded_is_not_found() -> None:
    response = _client(served_trait("a")).get("/v1/traits/b/report")
    assert response.status_code == 404
    assert "'b'" in response.json()["error"]["message"]


async def test_the_list_is_made_when_the_traits_change_and_not_when_somebody_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[int] = []

    def counted(traits: Sequence[ServedTrait], *, stale: Collection[str]) -> list[TraitInfo]:
        made.append(len(traits))
        return describe(traits, stale=stale)

    monkeypatch.setattr(routes, "describe", counted)
    listing = Listing()
    first, second = trait_set([served_trait("a")]), trait_set([served_trait("a"), served_trait("b", column=1)])
    bodies = await asyncio.gather(*(listing.body(first) for _ in range(20)))
    assert made == [1]
    assert {json.loads(body)["data"][0]["id"] for body in bodies} == {"a"}
    assert [trait["id"] for trait in json.loads(await listing.body(second))["data"]] == ["a", "b"]
    stale = json.loads(await listing.body(second, frozenset("b")))["data"]
    assert [trait["stale"] for trait in stale] == [False, True]
    assert made == [1, 2, 2]


async def test_a_new_report_is_listed_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "_REPORTS_SECONDS", 0.0)
    trait = _with(served_trait("a"), path=tmp_path / "a_response_avg_diff.pt")
    listing, traits = Listing(), trait_set([trait])
    assert json.loads(await listing.body(traits))["data"][0]["report"] is None
    report_of(trait).write_text("<!DOCTYPE html>")
    assert json.loads(await listing.body(traits))["data"][0]["report"] == "/v1/traits/a/report"


def _client(*traits: ServedTrait) -> TestClient:
    app = FastAPI()
    monitor = Monitor(trait_set(traits), "tokens", "api", Metrics(CollectorRegistry()))
    serving = Serving(monitor, None, SpikeLog(None, dropped=lambda count: None), Draining(0))
    add_routes(app, lambda: serving, admin=False, admin_keys=Keys([]))
    return TestClient(app)


async def test_the_list_does_not_keep_traits_that_are_loaded_no_more() -> None:
    """The registry gives a column to another trait when no set that has the column is alive."""
    listing = Listing()
    traits = trait_set([served_trait("a")])
    await listing.body(traits)
    alive = weakref.ref(traits)
    del traits
    gc.collect()
    assert alive() is None
