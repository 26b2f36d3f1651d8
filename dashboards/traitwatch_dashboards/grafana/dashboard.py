"""The Grafana dashboard, `traitwatch.json`; `python -m traitwatch_dashboards.grafana` writes it.

The dashboard is code: its queries can be tested, and its panels look alike. People import the file. `make_dashboard`
builds it with Grafana's own library, `grafana-foundation-sdk`, and imports the library late, because a server does not
need it.

All links lead to `${runbooks}`, a constant of the dashboard. `--runbooks URL` or the settings in Grafana set the
constant.
"""

import json
from pathlib import Path
from typing import Any

import click

from traitwatch.errors import TraitwatchError
from traitwatch.files import write_atomically
from traitwatch_dashboards.errors import DashboardError
from traitwatch_dashboards.prometheus.rules import RUNBOOKS

FILE = Path(__file__).parent / "traitwatch.json"
_HEATMAPS_BESIDE_EACH_OTHER = 3


def make_dashboard(runbooks: str = RUNBOOKS) -> dict[str, Any]:
    """Return the dashboard in the JSON model of Grafana.

    Args:
        runbooks: address of the page with the runbooks, without an anchor.

    Raises:
        DashboardError: `grafana-foundation-sdk` is not installed.
    """
    try:
        from grafana_foundation_sdk.builders import dashboard as build
        from grafana_foundation_sdk.cog.encoder import JSONEncoder
        from grafana_foundation_sdk.models import dashboard as models
    except ImportError:
        raise DashboardError("grafana-foundation-sdk is missing: pip install grafana-foundation-sdk.") from None

    from traitwatch_dashboards.grafana import health_rows, trait_rows
    from traitwatch_dashboards.grafana.panels import DATASOURCE, Panels, link

    board = (
        build.Dashboard("Traitwatch")
        .uid("traitwatch")
        .description("What a language model is becoming while it speaks: trait scores of every generated token.")
        .tags(["traitwatch", "vllm"])
        .time("now-6h", "now")
        .refresh("30s")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(link("Runbooks", "${runbooks}"))
        .annotation(
            build.AnnotationQuery()
            .name("Alerts")
            .datasource(DATASOURCE)
            .enable(True)
            .icon_color("red")
            .expr('ALERTS{alertstate="firing", alertname=~"Trait.*", model_name="$model_name"}')
        )
    )
    board.with_variable(build.DatasourceVariable("datasource").label("Data source").type("prometheus"))
    for variable in _query_variables():
        board.with_variable(variable)
    board.with_variable(build.ConstantVariable("runbooks").value(runbooks))
    make = Panels("${runbooks}")
    for title, panels in {
        "At a glance": health_rows.glance_row(make),
        "Spikes": trait_rows.spikes_row(make),
        "Mean z of responses": trait_rows.scores_row(make),
        "z of tokens over time": trait_rows.token_z_row(make),
        "Drift of the whole traffic": trait_rows.drift_row(make),
        "Coverage: scored and unscored tokens": health_rows.coverage_row(make),
        "From the workers to the API process": health_rows.transport_row(make),
        "vLLM itself": health_rows.vllm_row(make),
        "Vectors loaded": trait_rows.vectors_row(make),
    }.items():
        board.with_row(build.Row(title))
        for panel in panels:
            board.with_panel(panel)
    return _completed(json.loads(json.dumps(board.build(), cls=JSONEncoder)))


def _completed(model: dict[str, Any]) -> dict[str, Any]:
    """Number the panels of a dashboard, and add the fields that the library does not write."""
    for number, panel in enumerate(model["panels"], start=1):
        panel["id"] = number
        if "repeat" in panel:
            # The schema of the library lacks this field of Grafana.
            panel["maxPerRow"] = _HEATMAPS_BESIDE_EACH_OTHER
    for variable in model["templating"]["list"]:
        # A link to the dashboard must not be able to set the address of the runbooks.
        variable["skipUrlSync"] = variable["type"] == "constant"
    return model


def _query_variables() -> list[Any]:
    from grafana_foundation_sdk.builders.dashboard import QueryVariable
    from grafana_foundation_sdk.models.dashboard import VariableOption, VariableRefresh, VariableSort

    from traitwatch_dashboards.grafana.panels import DATASOURCE

    def of_label(label: str, series: str) -> QueryVariable:
        query: dict[str, object] = {"query": f"label_values({series}, {label})", "refId": label}
        variable = QueryVariable(label).datasource(DATASOURCE).query(query)
        return variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)

    model = of_label("model_name", "traitwatch_tokens_scored_total").label("Model")
    trait = of_label("trait", 'traitwatch_vector_info{model_name="$model_name"}').label("Trait")
    everything = VariableOption(selected=True, text=["All"], value=["$__all"])
    return [model, trait.multi(True).include_all(True).all_value(".*").current(everything)]


def dashboard_text(runbooks: str = RUNBOOKS) -> str:
    """Return the content of the file of the dashboard."""
    return json.dumps(make_dashboard(runbooks), indent=2, ensure_ascii=False) + "\n"


@click.command()
@click.option("--runbooks", default=RUNBOOKS, show_default=True, metavar="URL", help="Where the runbooks are.")
@click.option("--out", type=click.Path(path_type=Path), default=FILE, show_default=True, help="The file to write.")
def write_dashboard(*, runbooks: str, out: Path) -> None:
    """Write the Grafana dashboard."""
    try:
        write_atomically(out, dashboard_text(runbooks).encode())
    except TraitwatchError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"Written to {out}.")
