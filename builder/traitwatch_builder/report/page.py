"""A trait's report: one HTML page that needs nothing but itself, made from a vector's files.

The card, the `.pt` and the answers beside it say most. What only the model can tell (the projections of held-out
answers, the tokens of a few answers with theirs, the spread of neutral tokens) a build leaves in an evidence file,
`.traitwatch/<trait>-report.json`. A page can be made without any of these; it then says what is missing.
"""

from pathlib import Path
from typing import Any

from traitwatch.files import write_atomically
from traitwatch_builder.report.data import ReportData, read_report_data


def render_report(data: ReportData) -> str:
    """Return the report as one HTML page that loads nothing: styles and plots are in it, scripts are not.

    The same data give the same page.
    """
    from traitwatch_builder.report.view import template_context

    return render_page("report.html.j2", template_context(data))


def write_report(directory: Path, trait: str, out: Path | None = None) -> Path:
    """Write the report of a trait to `out`, by default `<trait>.html` among its files; return where it is.

    Raises:
        ArtifactError: as `read_report_data`.
    """
    path = out or directory / f"{trait}.html"
    write_atomically(path, render_report(read_report_data(directory, trait)).encode())
    return path


def render_page(template: str, context: dict[str, Any]) -> str:
    """Render a template of this folder, everything escaped that is not a plot."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(template).render(context)
