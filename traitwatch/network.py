"""What every HTTP client of Traitwatch has in common: checked addresses and keys, and no proxy for this machine.

`client_options(url)` returns the keyword arguments for the client of one server. httpx, httpx2 and the SDKs that stand
on them take the arguments:

- A server on this machine (`is_loopback`) is reached directly, whatever `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
- Other servers are reached as the library does it: through the proxies of the environment, except for `NO_PROXY`.
- A proxy or a certificate file that the library cannot use raises `NetworkError`, which names the variable. The library
  itself would raise errors of many types, some of them without any hint at the environment.

`checked_url` and `checked_key` check addresses and keys from options and the environment. `proxy_note` says through
which variable's proxy a server is reached, for errors.
"""

import ipaddress
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import getproxies_environment, proxy_bypass

import httpx
import httpx2

from traitwatch.errors import NetworkError
from traitwatch.headers import fits_header

_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
_SCHEMES = ("http", "https", "all")


def checked_url(url: str, source: str) -> httpx2.URL:
    """Return an address, parsed.

    Args:
        url: the address; white space around it does not count.
        source: the option or environment variable that it comes from, for the error.

    Raises:
        NetworkError: the address is not an http(s) URL with a host.
    """
    try:
        parsed = httpx2.URL(url.strip())
        usable = parsed.scheme in ("http", "https") and bool(parsed.host) and len(url.split()) == 1
        usable = usable and 0 < (parsed.port or 80) < 65536 and parsed.path.isprintable()
    except (httpx2.InvalidURL, ValueError):
        usable = False
    if not usable:
        raise NetworkError(
            f"{source}: {_shown(url)} is not the URL of a server; give one like http://host:8000, with http:// or "
            "https://, a host, and a port from 1 to 65535."
        )
    return parsed


def checked_key(key: str, source: str) -> str:
    """Return an API key, without the white space around it. Files and secrets often end in a newline.

    Args:
        key: the key.
        source: the option or environment variable that it comes from. The error names it, and not the key.

    Raises:
        NetworkError: the key has characters that no HTTP header can carry.
    """
    stripped = key.strip()
    if not fits_header(stripped) or " " in stripped:
        raise NetworkError(
            f"{source} has a character that no key has (a space, a line break or a letter that is not ASCII); copy the "
            "key again."
        )
    return stripped


def checked_header(value: str, source: str) -> str:
    """Return the value of an HTTP header, without the white space around it; raise `NetworkError` as `checked_key`."""
    stripped = value.strip()
    if not fits_header(stripped):
        raise NetworkError(f"{source} has a line break or a letter that is not ASCII, and no HTTP header can carry it.")
    return stripped


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine by its address or name: 127.0.0.0/8, ::1, 0.0.0.0, ::, localhost."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None) or address
    return bool(mapped.is_loopback or mapped.is_unspecified)


def client_options(url: str | httpx2.URL) -> dict[str, Any]:
    """Return the keyword arguments of an httpx or httpx2 client for one server: `trust_env` and `verify`.

    Raises:
        NetworkError: the environment names a proxy or a certificate file that cannot be used for this server.
    """
    parsed = httpx2.URL(url)
    context = _ssl_context(needed=parsed.scheme == "https")
    if is_loopback(parsed.host):
        return {"trust_env": False, "verify": context}
    for variable, proxy in _proxies().values():
        problem = _proxy_problem(proxy)
        if problem:
            raise NetworkError(
                f"{variable}={_shown(proxy)} is not a proxy that can be used ({problem}). Mend it or unset it; with "
                "NO_PROXY=* no proxy is used."
            )
    try:
        httpx.Client(verify=_no_context()).close()
    except (httpx.InvalidURL, ValueError) as error:
        value = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
        raise NetworkError(f"NO_PROXY={value!r} is no list of hosts ({error}). Mend it or unset it.") from error
    return {"trust_env": True, "verify": context}


def proxy_note(url: str | httpx2.URL) -> str:
    """Return a sentence about the proxy on the way to a server; empty where none is on the way."""
    parsed = httpx2.URL(url)
    if is_loopback(parsed.host) or proxy_bypass(parsed.netloc.decode("ascii", "replace")):
        return ""
    proxies = _proxies()
    variable, proxy = proxies.get(parsed.scheme) or proxies.get("all") or ("", "")
    if not variable:
        return ""
    return (
        f"It is asked through the proxy of {variable} ({_shown(proxy)}): does the proxy work? NO_PROXY goes around it."
    )


@contextmanager
def usable_environment() -> Iterator[None]:
    """Hide proxies and certificate files that cannot be used while a library is imported that makes an HTTP client.

    Gradio does so at its import. `client_options` reports the same variables where a server is asked with their help.
    """
    unusable = [variable for variable, proxy in _proxies().values() if _proxy_problem(proxy)]
    try:
        _ssl_context(needed=True)
    except NetworkError:
        unusable += _CERTIFICATES
    hidden = {variable: os.environ.pop(variable) for variable in unusable if variable in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _proxies() -> dict[str, tuple[str, str]]:
    """Return the variable and the URL of the proxy for `http`, `https` and `all` URLs; nothing with `NO_PROXY=*`."""
    proxies = getproxies_environment()
    if "*" in (host.strip() for host in proxies.get("no", "").split(",")):
        return {}
    found = {}
    for scheme in _SCHEMES:
        # Python prefers the lower case.
        names = sorted((name for name in os.environ if name.lower() == f"{scheme}_proxy"), reverse=True)
        variable = next((name for name in names if os.environ[name] == proxies.get(scheme)), None)
        if variable is not None:
            found[scheme] = (variable, os.environ[variable])
    return found


def _proxy_problem(proxy: str) -> str:
    """Return why the HTTP library cannot use a proxy; empty where the library can."""
    try:
        url = proxy if "://" in proxy else f"http://{proxy}"
        httpx2.HTTPTransport(proxy=httpx2.Proxy(url), verify=_no_context()).close()
    except ImportError:
        return "a SOCKS proxy needs a package: pip install socksio"
    except (httpx2.InvalidURL, ValueError, UnicodeError) as error:
        return _without_secrets(str(error), proxy)
    return ""


def _no_context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _ssl_context(*, needed: bool) -> ssl.SSLContext | bool:
    """Return what verifies certificates: True for the library's own, or a context with the environment's.

    Where no certificate is `needed`, a broken variable does no harm, and the context trusts nobody.
    """
    # The library reads SSL_CERT_DIR only where SSL_CERT_FILE is not set.
    variable = next((name for name in _CERTIFICATES if os.environ.get(name)), None)
    if variable is None:
        return True
    path = os.environ[variable]
    try:
        if variable == "SSL_CERT_FILE":
            return ssl.create_default_context(cafile=path)
        if not Path(path).is_dir():  # OpenSSL would trust nobody, and say nothing
            raise NotADirectoryError("no such directory")
        return ssl.create_default_context(capath=path)
    except (OSError, ValueError) as error:
        if not needed:
            return _no_context()
        raise NetworkError(
            f"{variable}={path} cannot be used for https ({error}). Mend the path, or unset the variable."
        ) from error


def http_address(host: str, port: int) -> str:
    """Return the address of a server: `http://HOST:PORT`, with brackets around a host of IPv6."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def redacted(url: str) -> str:
    """Return a URL without the name and the password in it, for messages."""
    scheme, separator, rest = url.rpartition("://")
    before, at, host = rest.rpartition("@")
    return f"{scheme}{separator}***@{host}" if at and before else url


def _shown(url: str) -> str:
    return repr(redacted(url)[:200])


def _without_secrets(text: str, url: str) -> str:
    """Return a library's message about a URL, without a password that the URL has."""
    return "it has the wrong form" if "@" in url else text.removesuffix(".")
