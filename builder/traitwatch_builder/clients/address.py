"""The address of a server that speaks OpenAI's Chat Completions, and its key.

`server_url` completes an address; `key_for` finds the key. An address may have a query. `ChatClient` sends the query
with every request. Azure's addresses have one:
`https://NAME.openai.azure.com/openai/deployments/NAME?api-version=VERSION`.
"""

import os

import httpx2

from traitwatch.network import checked_key, checked_url
from traitwatch_builder.errors import PipelineError

OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "EMPTY"
"""The key for servers that need none: the SDK demands one."""
_BASE_URL, _KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"
_AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com", ".azure-api.net")
_CALLS = ("/chat/completions", "/completions", "/models")


def server_url(url: str | None, source: str) -> str:
    """Return the base URL of a server: the given URL, else the environment's `OPENAI_BASE_URL`, else OpenAI's own.

    `http://host:8000` is completed to `http://host:8000/v1`. The address of a call, as portals show it, becomes the
    base: `https://host/v1/chat/completions` is `https://host/v1`. A query stays.

    Args:
        url: the given URL; None or empty where there is none.
        source: the option that the URL comes from, for errors.

    Raises:
        NetworkError: the URL is not an http(s) URL.
    """
    if not (url or "").strip():
        url, source = os.environ.get(_BASE_URL), _BASE_URL
    if not url or not url.strip():
        return OPENAI_URL
    parsed = checked_url(url, source)
    path = parsed.path.rstrip("/")
    for call in _CALLS:
        path = path.removesuffix(call)
    return str(parsed.copy_with(path=path or "/v1", fragment=None))


def key_for(url: str, given: str | None, source: str) -> str:
    """Return the key for a server: the given key, else `OPENAI_API_KEY`, else the stand-in `NO_KEY`.

    Args:
        url: the server's URL, as `server_url` returns it.
        given: the given key; None or empty where there is none.
        source: the option that the key comes from, for errors.

    Raises:
        NetworkError: the key has characters that no key has.
        PipelineError: the server is OpenAI's own, and there is no key.
    """
    key = checked_key(given, source) if given else checked_key(os.environ.get(_KEY, ""), _KEY)
    if not key and url == OPENAI_URL:
        raise PipelineError(f"{url} wants an API key: set OPENAI_API_KEY, or name a server of your own by its URL.")
    return key or NO_KEY


def is_azure(url: httpx2.URL) -> bool:
    """Tell whether a server takes its key in the header `api-key`, as Azure does, by its host or its `api-version`."""
    return url.host.endswith(_AZURE) or "api-version" in url.params
