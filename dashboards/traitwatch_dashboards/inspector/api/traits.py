"""A trait as the server describes it, with the baseline that makes a z of a projection."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from traitwatch_dashboards.errors import DashboardError


@dataclass(frozen=True)
class Trait:
    """One loaded trait.

    Attributes:
        name: its name.
        layer: the layer index at which it is read.
        mean: of neutral tokens, units of the hidden state; None where the trait is uncalibrated.
        std: their standard deviation; None with `mean`.
        threshold: the smoothed z above which a run of tokens is a spike; None where there is none.
        description: what it means.
        calibration_date: when its baseline was measured, ISO 8601; None with `mean`.
        verification: what is known of its worth on held-out answers; empty where nothing is.
        cosines: to the other traits that are read at the same layer, by name.
        report: path of its report on the server; None where there is none.
    """

    name: str
    layer: int
    mean: float | None = None
    std: float | None = None
    threshold: float | None = None
    description: str = ""
    calibration_date: str | None = None
    verification: Mapping[str, Any] = field(default_factory=dict)
    cosines: Mapping[str, float] = field(default_factory=dict)
    report: str | None = None

    @property
    def calibrated(self) -> bool:
        """Whether its projections have a z."""
        return self.mean is not None and self.std is not None

    def z(self, projection: float | None) -> float | None:
        """Return a projection in standard deviations of the baseline; None where there is no state or no baseline."""
        if projection is None or self.mean is None or self.std is None:
            return None
        return (projection - self.mean) / self.std


def trait_of(listed: Mapping[str, Any]) -> Trait:
    """Return a trait of the list of `GET /v1/traits`; raise `DashboardError` where it is no trait."""
    try:
        calibration = listed.get("calibration") or {}
        threshold = listed.get("threshold") or {}
        return Trait(
            name=str(listed["id"]),
            layer=int(listed["layer"]),
            mean=calibration.get("mean"),
            std=calibration.get("std"),
            threshold=threshold.get("z"),
            description=listed.get("description") or "",
            calibration_date=listed.get("calibration_date"),
            verification=listed.get("verification") or {},
            cosines=listed.get("cosines") or {},
            report=listed.get("report"),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DashboardError(f"the server lists something that is no trait: {listed!r}") from error
