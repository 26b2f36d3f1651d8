"""The folder for files that Traitwatch can make again: the embedded model, logs, answers that could not be saved.

`TRAITWATCH_CACHE` names the folder. Without the variable, it is the user's cache folder.
"""

import os
from pathlib import Path

import platformdirs

from traitwatch.errors import StorageError


def cache_path(*parts: str) -> Path:
    """Return the path of the cache folder, or of a file or folder in it; nothing is created."""
    folder = os.environ.get("TRAITWATCH_CACHE") or platformdirs.user_cache_dir("traitwatch")
    return Path(folder).joinpath(*parts)


def cache_directory(*parts: str) -> Path:
    """Return the cache folder, or the folder with these names in it; create the folder where it is missing.

    Raises:
        StorageError: the folder cannot be created, or files cannot be written into it.
    """
    directory = cache_path(*parts)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(directory, os.W_OK | os.X_OK) else "no file can be written into it"
    except OSError as error:
        reason = str(error)
    if reason:
        source = "TRAITWATCH_CACHE" if os.environ.get("TRAITWATCH_CACHE") else "the user's cache folder"
        raise StorageError(
            f"{directory}, from {source}, cannot hold files of Traitwatch ({reason}). Set TRAITWATCH_CACHE to a folder "
            "into which files can be written."
        )
    return directory
