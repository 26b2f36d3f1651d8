"""The admin key: what shows other people's texts and what changes the monitor is an operator's, not a client's.

vLLM has one kind of key, and every client of a server has it. So the routes of an operator ask for a key of their own,
in a header beside vLLM's bearer token. Without an admin key these routes are off.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Security
from fastapi.security import APIKeyHeader

from traitwatch.headers import ADMIN_HEADER
from traitwatch_server.app.keys import Keys
from traitwatch_server.errors import AdminError

_HEADER = APIKeyHeader(
    name=ADMIN_HEADER, auto_error=False, scheme_name="AdminKey", description="the key of --traits-admin-key"
)


def operator_only(keys: Keys) -> Callable[..., Awaitable[None]]:
    """Return a dependency of a route that refuses a request without the admin key.

    Args:
        keys: the admin key; without one, the route is off.
    """

    async def check(given: Annotated[str | None, Security(_HEADER)]) -> None:
        if not keys:
            raise AdminError(
                403,
                "this route is an operator's, and off: the server has no admin key. Start it with "
                "TRAITWATCH_ADMIN_KEY or --traits-admin-key-file.",
            )
        if given is None:
            raise AdminError(403, f"this route is an operator's; give the admin key in the header {ADMIN_HEADER}.")
        if not keys.has(given):
            raise AdminError(403, f"the key in the header {ADMIN_HEADER} is not this server's admin key.")

    return check
