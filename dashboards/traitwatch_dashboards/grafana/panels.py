"""The kinds of panel of the Grafana dashboard, with the options that all panels of a kind share.

This module imports `grafana_foundation_sdk`. A server does not need the library, so
`traitwatch_dashboards.grafana.dashboard` imports this module late.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from grafana_foundation_sdk.builders import common, dashboard
from grafana_foundation_sdk.builders.bargauge import Panel as BarGauge
from grafana_foundation_sdk.builders.heatmap import CellValues, HeatmapColorOptions, YAxisConfig
from grafana_foundation_sdk.builders.heatmap import Panel as Heatmap
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.builders.stat import Panel as Stat
from grafana_foundation_sdk.builders.table import Panel as Table
from grafana_foundation_sdk.builders.timeseries import Panel as Timeseries
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models import common as common_models
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
COLUMNS = 24
"""Width of Grafana's grid."""

GREEN, ORANGE, RED, GREY = "green", "orange", "red", "#8e8e8e"


@dataclass(frozen=True)
class PanelFrame:
    """The options that every panel has.

    Attributes:
        title: title of the panel.
        description: how to read the panel; Markdown.
        width: columns, of 24.
        height: rows of some 38 pixels.
        runbook: the alerts whose runbooks the panel links to.
    """

    title: str
    description: str
    width: int = 8
    height: int = 8
    runbook: Sequence[str] = ()


@dataclass(frozen=True)
class Query:
    """One query of a panel.

    Attributes:
        expr: PromQL.
        legend: name of the series.
        exemplars: whether to query exemplars too.
    """

    expr: str
    legend: str = "{{trait}}"
    exemplars: bool = False


@dataclass(frozen=True)
class ColourStep:
    """A value above which a panel has another colour, or at which it has a line."""

    value: float
    colour: str


class _Panel(Protocol):
    """The methods that the builders of all panels share."""

    def title(self, title: str) -> Self: ...
    def description(self, description: str) -> Self: ...
    def datasource(self, datasource: models.DataSourceRef) -> Self: ...
    def span(self, w: int) -> Self: ...
    def height(self, h: int) -> Self: ...
    def links(self, links: list[Builder[models.DashboardLink]]) -> Self: ...
    def thresholds(self, thresholds: Builder[models.ThresholdsConfig]) -> Self: ...
    def override_by_name(self, name: str, properties: list[models.DynamicConfigValue]) -> Self: ...
    def override_by_regexp(self, regexp: str, properties: list[models.DynamicConfigValue]) -> Self: ...
    def build(self) -> models.Panel: ...


P = TypeVar("P", bound=_Panel)


class Panels:
    """Builds panels. Their links lead to one page of runbooks, with an anchor for each alert."""

    def __init__(self, runbooks: str):
        """Set the page of runbooks.

        Args:
            runbooks: address of the page, or a variable of the dashboard.
        """
        self._runbooks = runbooks

    def timeseries(
        self,
        frame: PanelFrame,
        *queries: Query,
        unit: str,
        lines: Sequence[ColourStep] = (),
        minimum: float | None = None,
        soft_maximum: float | None = None,
    ) -> Timeseries:
        """Return a panel of lines over time; `lines` are dashed lines across it."""
        panel = self._framed(Timeseries(), frame, lines, base="transparent").unit(unit)
        for number, query in enumerate(queries):
            panel.with_target(_query(query, number).range().exemplar(query.exemplars))
        wide = frame.width >= COLUMNS // 2
        legend = common.VizLegendOptions().show_legend(True)
        if wide:
            legend = legend.display_mode(common_models.LegendDisplayMode.TABLE).calcs(["lastNotNull", "max"])
            legend = legend.placement(common_models.LegendPlacement.RIGHT).sort_by("Max").sort_desc(True)
        else:
            legend = legend.display_mode(common_models.LegendDisplayMode.LIST).calcs([])
            legend = legend.placement(common_models.LegendPlacement.BOTTOM)
        tooltip = common.VizTooltipOptions().mode(common_models.TooltipDisplayMode.MULTI)
        panel.legend(legend).tooltip(tooltip.sort(common_models.SortOrder.DESCENDING))
        panel.line_width(1).fill_opacity(5).show_points(common_models.VisibilityMode.NEVER).span_nulls(False)
        if lines:
            style = common.GraphThresholdsStyleConfig().mode(common_models.GraphTresholdsStyleMode.DASHED)
            panel.thresholds_style(style)
        if minimum is not None:
            panel.min(minimum)
        if soft_maximum is not None:
            panel.axis_soft_max(soft_maximum)
        return panel

    def stat(
        self,
        frame: PanelFrame,
        query: Query,
        *,
        unit: str,
        levels: Sequence[ColourStep] = (),
        base: str = GREEN,
        decimals: int | None = None,
        empty: str = "-",
    ) -> Stat:
        """Return a panel with the newest value; `levels` colour it, and `base` does below the first level."""
        panel = self._framed(Stat(), frame, levels, base).unit(unit).no_value(empty)
        if decimals is not None:
            panel.decimals(decimals)
        panel.with_target(_query(query, 0).instant())
        panel.color_mode(common_models.BigValueColorMode.VALUE).graph_mode(common_models.BigValueGraphMode.NONE)
        panel.text_mode(common_models.BigValueTextMode.VALUE).reduce_options(_newest())
        return panel.orientation(common_models.VizOrientation.AUTO)

    def bars(
        self, frame: PanelFrame, query: Query, *, unit: str, levels: Sequence[ColourStep], maximum: float, decimals: int
    ) -> BarGauge:
        """Return a panel with one bar for each series."""
        panel = self._framed(BarGauge(), frame, levels).unit(unit).min(0).max(maximum).decimals(decimals)
        panel.with_target(_query(query, 0).instant()).no_value("no traffic")
        panel.orientation(common_models.VizOrientation.HORIZONTAL).show_unfilled(True)
        panel.display_mode(common_models.BarGaugeDisplayMode.BASIC).reduce_options(_newest())
        return panel.value_mode(common_models.BarGaugeValueMode.COLOR)

    def heatmap(self, frame: PanelFrame, buckets: str, *, cells: str, repeat: str) -> Heatmap:
        """Return a heat map of a histogram's buckets; Grafana repeats it for each value of the variable `repeat`."""
        panel = self._framed(Heatmap(), frame).repeat(repeat).repeat_direction("h")
        query = _query(Query(buckets, "{{le}}"), 0).range().format(PromQueryFormat.HEATMAP)
        # With three maps beside each other, a cell is some four pixels wide.
        panel.with_target(query).max_data_points(100)
        colour = HeatmapColorOptions().mode(HeatmapColorMode.OPACITY).fill(ORANGE).scheme("Oranges").steps(64)
        panel.color(colour.scale(HeatmapColorScale.EXPONENTIAL).exponent(0.5))
        panel.y_axis(YAxisConfig().axis_label("z, at most")).cell_values(CellValues().unit(cells)).cell_gap(1)
        return panel.calculate(False).show_tooltip().show_legend()

    def table(
        self, frame: PanelFrame, columns: dict[str, str], values: dict[str, Query], overrides: dict[str, dict[str, Any]]
    ) -> Table:
        """Return a table of instant queries, joined on the labels that they share.

        Args:
            frame: options of the panel.
            columns: label to the title of its column, in order.
            values: title of a column to the query that fills it, in order; these columns follow the labels.
            overrides: title of a column to its own field options.
        """
        panel = self._framed(Table(), frame, base="transparent").show_header(True)
        titles = dict(columns)
        for number, (title, query) in enumerate(values.items()):
            panel.with_target(_query(query, number).instant().format(PromQueryFormat.TABLE))
            titles[f"Value #{_letter(number)}" if len(values) > 1 else "Value"] = title
        panel.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
        order = {field: place for place, field in enumerate(titles)}
        arranged = {"excludeByName": {"Time": True}, "indexByName": order, "renameByName": titles}
        panel.with_transformation(models.DataTransformerConfig(id_val="organize", options=arranged))
        return differing(panel, overrides)

    def _framed(self, panel: P, frame: PanelFrame, levels: Sequence[ColourStep] = (), base: str = GREEN) -> P:
        panel.title(frame.title).description(frame.description).datasource(DATASOURCE)
        panel.span(frame.width).height(frame.height).thresholds(thresholds(base, levels))
        return panel.links([link(f"Runbook: {alert}", f"{self._runbooks}#{alert.lower()}") for alert in frame.runbook])


def thresholds(base: str, levels: Sequence[ColourStep]) -> dashboard.ThresholdsConfig:
    """Return the colours of values; `base` is the colour below the first level."""
    steps = [models.Threshold(None, base), *(models.Threshold(level.value, level.colour) for level in levels)]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def link(title: str, url: str) -> dashboard.DashboardLink:
    """Return a link that opens beside the dashboard."""
    runbook = dashboard.DashboardLink(title).type(models.DashboardLinkType.LINK).url(url).target_blank(True)
    return runbook.icon("doc").tooltip(title)


def differing(panel: P, options: dict[str, dict[str, Any]]) -> P:
    """Give some fields of a panel other options than the rest.

    Args:
        panel: the panel.
        options: name of a field, or a regular expression between slashes, to the field's own options.
    """
    for name, changed in options.items():
        values = [models.DynamicConfigValue(key, value) for key, value in changed.items()]
        if name.startswith("/"):
            panel.override_by_regexp(name, values)
        else:
            panel.override_by_name(name, values)
    return panel


def dashed(colour: str) -> dict[str, Any]:
    """Return the options of a reference line: dashed, in one colour, and absent from the legend."""
    return {
        "color": {"mode": "fixed", "fixedColor": colour},
        "custom.lineStyle": {"fill": "dash", "dash": [8, 8]},
        "custom.fillOpacity": 0,
        "custom.hideFrom": {"legend": True, "tooltip": False, "viz": False},
    }


def colours(base: str, levels: Sequence[ColourStep]) -> dict[str, Any]:
    """Return the same colours as `thresholds`, as an option of one field."""
    steps = [{"value": None, "color": base}, *({"value": level.value, "color": level.colour} for level in levels)]
    return {"mode": "absolute", "steps": steps}


def _query(query: Query, number: int) -> Dataquery:
    return Dataquery().expr(query.expr).legend_format(query.legend).ref_id(_letter(number))


def _letter(number: int) -> str:
    return chr(ord("A") + number)


def _newest() -> common.ReduceDataOptions:
    return common.ReduceDataOptions().calcs(["lastNotNull"]).fields("").values(False)
