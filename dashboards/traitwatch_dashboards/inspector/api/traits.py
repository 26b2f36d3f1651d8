"""A trait of the server's list, with the baseline that turns a projection into a z."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from traitwatch_dashboards.errors import DashboardError


@dataclass(frozen=True)
class Trait:
    """One loaded trait.

    Attributes:
        name: name of the trait.
        layer: the layer index at which the trait is read.
        mean: mean projection of neutral tokens, units of the hidden state; None where the trait is uncalibrated.
        std: standard deviation of the same projections; None where `mean` is None.
        threshold: the smoothed z above which a run of tokens is a spike; None where the trait has no threshold.
        description: meaning of the trait.
        calibration_date: when the baseline was measured, ISO 8601; None where `mean` is None.
        stale: whether the weights of the server were replaced after it had loaded the trait.
        verification: results on held-out answers; empty where the vector was not verified.
        cosines: cosines to the other traits that are read at the same layer, by name.
        report: path of the report on the server; None where there is no report.
    """

    name: str
    layer: int
    mean: float | None = None
    std: float | None = None
    threshold: float | None = None
    description: str = ""
    calibration_date: str | None = None
    stale: bool = False
    verification: Mapping[str, Any] = field(default_factory=dict)
    cosines: Mapping[str, float] = field(default_factory=dict)
    report: str | None = None

    @property
    def calibrated(self) -> bool:
        """Whether projections of the trait have a z."""
        return self.mean is not None and self.std is not None

    def z(self, projection: float | None) -> float | None:
        """Return a projection in standard deviations of the baseline; None without a projection or a baseline."""
        if projection is None or self.mean is None or self.std is None:
            return None
        return (projection - self.mean) / self.std


def trait_of(listed: Mapping[str, Any]) -> Trait:
    """Return one entry of the list of `GET /v1/traits`; raise `DashboardError` where the entry is not a trait."""
    try:
        calibration = listed.get("calibration") or {}
        threshold = listed.get("threshold") or {}
        std = _number(calibration.get("std"))
        if std is not None and std <= 0:
            raise ValueError("a standard deviation is above 0")
        return Trait(
            name=str(listed["id"]),
            layer=int(listed["layer"]),
            mean=_number(calibration.get("mean")),
            std=std,
            threshold=_number(threshold.get("z")),
            description=listed.get("description") or "",
            calibration_date=listed.get("calibration_date"),
            stale=listed.get("stale") is True,
            verification=listed.get("verification") or {},
            cosines=listed.get("cosines") or {},
            report=listed.get("report"),
        )
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        shown = repr(listed)[:200]
        raise DashboardError(
            f"the server lists an entry that is no trait: {shown}. Do the server and this page have the same version?"
        ) from error


def _number(value: Any) -> float | None:
    """Return a number of the list; None where it has none. Raise `ValueError` or `TypeError` for anything else."""
    if value is None:
        return None
    number = float(value)
    if isinstance(value, str | bool) or not math.isfinite(number):
        raise ValueError(f"{value!r} is no number")
    return number
