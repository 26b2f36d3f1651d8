"""Every file, module and test that a document names exists.

A document names a file by its path from the root of the repository, and a module by its import name. The page
of the architecture and its pictures name files by their path from a package too.
"""

import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

_PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
_ARCHITECTURE = ROOT / "docs" / "explanation" / "architecture.md"
_PICTURES = sorted((ROOT / "docs" / "images").glob("path-of-*.svg"))
_FOLDERS = "builder|dashboards|docs|locks|scripts|server|tests|traitwatch"
_PATH = re.compile(rf"(?<![\w./:-])(?:{_FOLDERS})/(?:[\w.-]+/)*(?:[\w-]+(?:\.[\w-]+)*)?")
_MODULE = re.compile(r"(?<![\w./-])(?:traitwatch_(?:builder|dashboards|server)|scripts|tests)(?:\.\w+)+")
_TEST = re.compile(r"(?<![\w/])test_\w+\.py")
# In a picture or in back quotes: a path without the folders before it.
_SHORT = re.compile(r"(?<=[>`])((?:[\w-]+/)+(?:\w+\.py)?)(?=[<`])")
# In the tables of the packages: a folder, and the file with which a reader begins.
_ROW = re.compile(r"^\| `([\w/]+/)` \|.*\| `(\w+\.py)` \|$", re.MULTILINE)
_PACKAGES = [ROOT / name / f"traitwatch_{name}" for name in ("server", "builder", "dashboards")]
_WRITTEN_BY_A_BUILD = {"trait_data_extract/", "trait_data_eval/"}


def test_a_missing_path_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("See `server/gone.py`, `tests.support.gone`, [a](docs/gone.md#part), `test_gone.py` and `locks/`.")
    assert list(_missing(page)) == ["server/gone.py", "docs/gone.md", "tests.support.gone", "test_gone.py"]


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_names_in_a_page_exist(page: Path) -> None:
    assert not list(_missing(page))


@pytest.mark.parametrize("document", [_ARCHITECTURE, *_PICTURES], ids=lambda document: document.name)
def test_the_names_in_the_architecture_exist(document: Path) -> None:
    text = document.read_text("utf-8")
    named = {*_SHORT.findall(text), *("".join(row) for row in _ROW.findall(text))} - _WRITTEN_BY_A_BUILD
    assert named
    assert not {name for name in named if not any((root / name).exists() for root in (ROOT, *_PACKAGES))}


def _missing(page: Path) -> Iterator[str]:
    text = page.read_text("utf-8")
    for path in _PATH.findall(text):
        if not (ROOT / path).exists():
            yield path
    for name in _MODULE.findall(text):
        try:
            pkgutil.resolve_name(name)
        except (ImportError, AttributeError):
            yield name
    for test in _TEST.findall(text):
        if not any((ROOT / "tests").rglob(test)):
            yield test
