"""A hook of mkdocs: the repository's CHANGELOG.md becomes the site's page `changelog.md`.

The file stays in the root of the repository, where people look for it.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page."""
    text = (Path(config.docs_dir).parent / "CHANGELOG.md").read_text()
    files.append(File.generated(config, "changelog.md", content=text))
    return files
