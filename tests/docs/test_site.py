"""The site builds without a warning and fetches nothing from elsewhere. Local links of README and others work."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

_LINK = re.compile(r"\]\(([^)\s]+)\)")
# A page fetches the addresses in these elements. The links of a reader are in `href` of `a`.
_FETCHED = re.compile(r"<(?:script|img|iframe|source)[^>]*\ssrc=\"?(?P<src>[^\">\s]+)|<link(?P<link>[^>]*)>")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. The output of mkdocs is in `mkdocs.log`."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (out / "mkdocs.log").write_text(done.stdout + done.stderr)
    return out / "site"


def test_the_site_is_built_without_a_warning(site: Path) -> None:
    log = site.with_name("mkdocs.log").read_text().splitlines()
    assert [line for line in log if not line.startswith("INFO")] == []
    # Some versions report a page without a menu entry, or a missing anchor, as information.
    assert [line for line in log if "not included in the" in line or "no such anchor" in line] == []


def test_every_page_is_there(site: Path) -> None:
    sources = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    # The examples are programs, and npm puts packages beside them.
    pages = {path.with_suffix(".html") for path in sources if path.parts[0] != "examples"}
    missing = {page for page in pages if not (site / page).is_file()}
    assert pages
    assert not missing


def test_the_changelog_is_a_page_of_the_site(site: Path) -> None:
    newest = re.search(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest is not None
    assert newest[1] in (site / "changelog.html").read_text()


def test_a_page_fetches_nothing_from_elsewhere(site: Path) -> None:
    fetched = set()
    for page in site.rglob("*.html"):
        for match in _FETCHED.finditer(page.read_text()):
            href = re.search(r"href=\"?([^\">\s]+)", match["link"] or "")
            fetched.add(match["src"] or (href[1] if href else ""))
    assert fetched
    assert not {address for address in fetched if re.match(r"(?:\w+:)?//", address)}


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "SECURITY.md"])
def test_every_local_link_of_a_page_beside_the_site_leads_somewhere(name: str) -> None:
    text = (ROOT / name).read_text()
    for target in _LINK.findall(text):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        page = ROOT / path if path else ROOT / name
        assert page.exists(), f"{name}: {target}"
        if anchor:
            assert anchor in _anchors(page.read_text()), f"{name}: {target}"


def _anchors(text: str) -> set[str]:
    """Return the anchors of a page's headings, as git hosts make them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
