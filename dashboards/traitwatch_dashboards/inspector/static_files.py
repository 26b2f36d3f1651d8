"""The files that the page loads into the browser: scripts, style sheet, logo, Plotly. This server has all of them."""

import base64
from importlib.resources import files
from pathlib import Path

import plotly  # type: ignore[import-untyped]

ASSETS = Path(str(files(__package__) / "assets"))
PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
_SCRIPTS = ("scored_text.js", "view.js", "plot.js", "page.js")


def head() -> str:
    """Return the HTML for the page's head: our scripts, which load nothing from elsewhere."""
    scripts = "\n".join((ASSETS / name).read_text("utf-8") for name in _SCRIPTS)
    return f'<meta name="referrer" content="no-referrer"><script>{scripts}</script>'


def logo() -> str:
    """Return the logo as a `data:` URL."""
    return "data:image/svg+xml;base64," + base64.b64encode((ASSETS / "favicon.svg").read_bytes()).decode()


def style() -> str:
    """Return the page's style sheet."""
    return (ASSETS / "style.css").read_text("utf-8")
