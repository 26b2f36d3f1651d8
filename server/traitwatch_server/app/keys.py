"""Secrets that a request has to give, compared in constant time."""

import hashlib
import secrets
from collections.abc import Iterable


class Keys:
    """A set of keys. Only their digests are held."""

    def __init__(self, keys: Iterable[str]):
        """Take the keys; none of them is empty."""
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    def has(self, given: str) -> bool:
        """Return whether a request gives one of the keys, in a time that does not depend on the text of any key."""
        digest = _digest(given)
        # Every key is compared, so that the time does not tell which key it was either.
        return sum(secrets.compare_digest(digest, known) for known in self._digests) > 0


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
