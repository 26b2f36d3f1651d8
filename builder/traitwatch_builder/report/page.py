"""A trait's report: one self-contained HTML page, made from the files of a vector.

Most of the page comes from the card, the `.pt` file and the answers beside it. Some measurements need the model: the
projections of held-out answers, of the tokens of a few answers, and of neutral tokens. A build leaves these in an
evidence file, `.traitwatch/<trait>-report.json`. Where a file or a measurement is missing, the page names it and the
command that makes it.
"""

from pathlib import Path
from typing import Any

from traitwatch.files import write_atomically
from traitwatch_builder.report.data import ReportData, read_report_data


def render_report(data: ReportData) -> str:
    """Return the report as one HTML page that loads nothing: it contains its styles and plots, and no scripts.

    The same data give the same page.
    """
    from traitwatch_builder.report.view import template_context

    return render_page("report.html.j2", template_context(data))


def write_report(directory: Path, trait: str, out: Path | None = None) -> Path:
    """Write the report of a trait to `out`, by default to `<trait>.html` among its files; return the path.

    Raises:
        ArtifactError: as `read_report_data`.
    """
    path = out or directory / f"{trait}.html"
    write_atomically(path, render_report(read_report_data(directory, trait)).encode())
    return path


def render_page(template: str, context: dict[str, Any]) -> str:
    """Render a template of this folder; all text is escaped, plots (`Markup`) are not."""
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
