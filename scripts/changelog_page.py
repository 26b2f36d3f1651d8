"""A hook of mkdocs: the site's page `changelog.md` is the repository's CHANGELOG.md, which stays where people look."""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    text = (Path(config.docs_dir).parent / "CHANGELOG.md").read_text()
    files.append(File.generated(config, "changelog.md", content=text))
    return files
