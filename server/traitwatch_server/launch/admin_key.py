"""Reads the admin key, which guards the routes of an operator (`traitwatch_server.app.admin`)."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from traitwatch.headers import fits_header
from traitwatch_server.errors import ConfigError

# A guess can be tried at every request, so a key must not be guessable.
_SHORTEST = 16
# A header of a request has a limit.
_LONGEST = 1024
_MAKE_ONE = "`openssl rand -hex 32` makes one"


def read_admin_key(key: str | None, file: Path | None) -> str | None:
    """Return the admin key from an option, the environment or a file; None where nobody gives one.

    Raises:
        ConfigError: the key is given twice, cannot be read, is short, or cannot be sent in a header.
    """
    if key is not None and file is not None:
        raise ConfigError(
            "--traits-admin-key (or TRAITWATCH_ADMIN_KEY) and --traits-admin-key-file both give a key; leave one out."
        )
    if file is not None:
        try:
            if file.exists() and not file.is_file():
                raise ConfigError(
                    f"--traits-admin-key-file {file} is no regular file; name a file with a key alone in it: "
                    f"{_MAKE_ONE}."
                )
            with file.open(encoding="ascii") as opened:
                key = opened.read(2 * _LONGEST).strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
            raise ConfigError(
                f"--traits-admin-key-file {file} cannot be read ({reason}); name a file with a key alone in it: "
                f"{_MAKE_ONE}."
            ) from error
    if key is None:
        return None
    if not _SHORTEST <= len(key) <= _LONGEST or not fits_header(key) or " " in key:
        raise ConfigError(
            f"the admin key must be {_SHORTEST} to {_LONGEST} printable ASCII characters without a space, and this one "
            f"is not ({len(key)} characters); {_MAKE_ONE}."
        )
    return key


def check_is_no_api_key(admin_key: str | None, api_keys: Sequence[str]) -> None:
    """Refuse an admin key that clients have as their API key.

    Raises:
        ConfigError: it is one of the API keys.
    """
    if admin_key is not None and any(secrets.compare_digest(admin_key.encode(), key.encode()) for key in api_keys):
        raise ConfigError(
            f"the admin key is an API key of the server too, so that every client would be an operator; {_MAKE_ONE}."
        )
