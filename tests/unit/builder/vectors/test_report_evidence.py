"""The evidence of a report refuses malformed data, and a rule chooses the answers for the page."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from traitwatch.errors import ArtifactError
from traitwatch_builder.vectors.report_evidence import HeldOut, Histogram, Sample, load_evidence, spread


def test_samples_are_spread_over_the_values_and_the_same_every_time() -> None:
    values = [float(v) for v in (5, 0, 3, 1, 4, 2, 6, 7, 8)]
    assert [values[i] for i in spread(values, 3)] == [1, 4, 7]
    assert spread([2.0, 1.0], 3) == [1, 0]
    assert spread([], 3) == []


def test_a_histogram_counts_every_value() -> None:
    histogram = Histogram.of([-0.3, 0.0, 0.1, 0.5], width=0.25)
    assert histogram.edges == [-0.5, -0.25, 0.0, 0.25, 0.5, 0.75]
    assert histogram.counts == [1, 0, 2, 0, 1]
    wide = Histogram.of([-1e6, 1e6])
    assert sum(wide.counts) == 2
    assert len(wide.counts) <= 400


def test_malformed_evidence_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="2 projections for 1 scores"):
        HeldOut(projections=[1.0, 2.0], scores=[3.0])
    with pytest.raises(ValidationError, match="1 projections for 2 tokens"):
        Sample(polarity="pos", question="q", answer_tokens=["a", "b"], projections=[1.0])
    with pytest.raises(ValidationError, match="ascending"):
        Histogram(edges=[0.0, 0.0], counts=[1])
    (tmp_path / "evidence.json").write_text('{"layer": -1}')
    with pytest.raises(ArtifactError, match=r"evidence\.json is not a valid ReportEvidence.*sha256"):
        load_evidence(tmp_path / "evidence.json")
