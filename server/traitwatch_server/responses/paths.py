"""The path by which a request finds its route."""

# The router itself decides with this function. A copy that differs in one case would be a way around every guard.
from starlette._utils import get_route_path
from starlette.types import Scope


def route_path(scope: Scope) -> str:
    """Return the path that the router looks for: without the root path, the prefix of a proxy.

    The `$` of the router's patterns matches before a line feed at the end too.
    """
    return get_route_path(scope).removesuffix("\n")
