"""Addresses, keys and proxies: what cannot be used is named, and this machine is reached without a proxy."""

import ast
import ssl
from pathlib import Path

import httpx
import httpx2
import pytest

from tests.support.imports import PACKAGES, sources
from tests.support.wire.http import Reply, WireServer, wire_server
from traitwatch.errors import NetworkError
from traitwatch.network import checked_key, checked_url, client_options, is_loopback, proxy_note, usable_environment
from traitwatch.processes import _is_ready

FAR = "http://203.0.113.9:8000"
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *(name.lower() for name in PROXIES), *CERTIFICATES):
        monkeypatch.delenv(name, raising=False)


# --- this machine


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST.",
        "a.localhost",
        "127.0.0.1",
        "127.9.9.9",
        "::1",
        "[::1]",
        "0.0.0.0",
        "::",
        "::ffff:127.0.0.1",
    ],
)
def test_this_machine_is_known_by_its_addresses(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host", ["", "example.com", "localhost.example.com", "10.0.0.1", "128.0.0.1", "fe80::1%eth0", "127"]
)
def test_other_machines_are_not_taken_for_this_one(host: str) -> None:
    assert not is_loopback(host)


BROKEN = {
    "http_proxy": "http://127.0.0.1:9",
    "HTTP_PROXY": "http://127.0.0.1:9",
    "ALL_PROXY": "foo://x",
    "all_proxy": "socks5://127.0.0.1:9",
    "NO_PROXY": "[::1",
    "SSL_CERT_FILE": "/nonexistent",
    "SSL_CERT_DIR": "/nonexistent",
}


@pytest.mark.parametrize("variable", BROKEN)
async def test_this_machine_is_reached_directly_by_every_library(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(server: WireServer) -> list[int]:
        url, options = server.url, client_options(server.url)
        return [
            httpx.get(url, **options).status_code,
            httpx2.get(url, **options).status_code,
            200 if _is_ready(url) else 0,
        ]

    with wire_server(lambda _: Reply({})) as server:
        monkeypatch.setenv(variable, BROKEN[variable])
        assert get(server) == [200] * 3
        async with httpx2.AsyncClient(**client_options(server.url)) as client:
            assert (await client.get(server.url)).status_code == 200
        assert len(server.requests) == 4


# --- other machines


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_that_cannot_be_used_is_named(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "foo://me:secret@x")
    with pytest.raises(NetworkError, match=f"^{variable}=") as caught:
        client_options(FAR)
    assert "secret" not in str(caught.value)
    assert "Mend it or unset it" in str(caught.value)


@pytest.mark.parametrize("proxy", ["http://[::1", "http://h:99999999", "foo://x", "socks4://x", "://", "http://a b"])
def test_no_proxy_ends_in_another_error(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    try:
        options = client_options(FAR)
    except NetworkError:
        return
    httpx.Client(**options).close()
    httpx2.Client(**options).close()


def test_a_list_of_hosts_without_proxy_that_no_library_reads_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "::;,a.b")
    with pytest.raises(NetworkError, match=r"^NO_PROXY='::;,a\.b' is no list of hosts"):
        client_options(FAR)
    monkeypatch.setenv("NO_PROXY", "::1,.a.b,10.0.0.0/8,localhost:80")
    httpx.Client(**client_options(FAR)).close()


def test_a_socks_proxy_names_the_package_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    try:
        import socksio  # type: ignore[import-not-found]  # noqa: F401
    except ImportError:
        with pytest.raises(NetworkError, match=r"^ALL_PROXY=.*pip install socksio"):
            client_options(FAR)
    else:
        assert client_options(FAR)["trust_env"] is True


def test_a_proxy_in_use_is_asked_and_named_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with wire_server(lambda _: Reply({})) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        assert httpx2.get(f"{FAR}/x", **client_options(FAR)).status_code == 200
        assert proxy.requests[0].path == f"{FAR}/x"
        assert f"the proxy of HTTP_PROXY ('{proxy.url}')" in proxy_note(FAR)
        assert proxy_note("http://127.0.0.1:8000") == ""
        monkeypatch.setenv("NO_PROXY", "203.0.113.9")
        assert proxy_note(FAR) == ""


@pytest.mark.parametrize("value", ["*", "a, *"])
def test_with_no_proxy_for_all_hosts_a_broken_proxy_does_no_harm(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "foo://x")
    monkeypatch.setenv("NO_PROXY", value)
    httpx2.Client(**client_options(FAR)).close()


@pytest.mark.parametrize("variable", CERTIFICATES)
def test_a_certificate_file_that_cannot_be_used_is_named_where_it_is_needed(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "/nonexistent/file")
    with pytest.raises(NetworkError, match=f"^{variable}=/nonexistent/file cannot be used for https"):
        client_options("https://127.0.0.1:1")
    httpx2.Client(**client_options(FAR)).close()


def test_a_certificate_file_without_certificates_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "own.pem"
    file.write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(NetworkError, match=r"^SSL_CERT_FILE="):
        client_options("https://203.0.113.9")


def test_own_certificates_hold_for_this_machine_too(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = ssl.get_default_verify_paths()
    file = next(
        (file for file in (paths.cafile, "/etc/ssl/certs/ca-certificates.crt") if file and Path(file).is_file()), None
    )
    if file is None:
        pytest.skip("no certificates on this machine")
    monkeypatch.setenv("SSL_CERT_FILE", file)
    context = client_options("https://localhost")["verify"]
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.cert_store_stats()["x509_ca"] > 0


def test_a_library_that_makes_a_client_at_its_import_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "foo://x")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")
    with usable_environment():
        httpx.Client().close()
    with pytest.raises(NetworkError):
        client_options(FAR)


# --- addresses and keys


def test_a_whole_address_is_parsed_and_its_password_is_in_no_error() -> None:
    assert checked_url(" http://h:1/x \n", "--url").host == "h"
    with pytest.raises(NetworkError, match=r"--url: 'ftp://\*\*\*@h' is not the URL of a server"):
        checked_url("ftp://me:secret@h", "--url")


def test_a_key_has_no_white_space_and_no_foreign_letters() -> None:
    assert checked_key(" k-1\r\n", "KEY") == "k-1"
    for key in ("a b", "a\nb", "ä", "a\x00", "\ud800"):
        with pytest.raises(NetworkError, match=r"^KEY has a character that no key has"):
            checked_key(key, "KEY")


# --- one mechanism


CLIENTS = {
    "Client",
    "AsyncClient",
    "OpenAI",
    "AsyncOpenAI",
    "Anthropic",
    "DefaultHttpxClient",
    "DefaultAsyncHttpxClient",
}
REQUESTS = {"get", "post", "put", "delete", "request", "stream", "urlopen"}
LIBRARIES = {"httpx", "httpx2", "openai", "anthropic", "requests", "urllib"}


def test_every_http_client_of_the_packages_is_made_with_these_options() -> None:
    """A client with a transport of its own reaches an application in this process; an SDK takes such a client."""
    found, wrong = 0, []
    for module, path in sources(PACKAGES).items():
        if module == "traitwatch.network":
            continue
        text = path.read_text()
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
            if f"import {owner}" not in text or owner not in LIBRARIES or node.func.attr not in CLIENTS | REQUESTS:
                continue
            found += 1
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if not (given.keys() & {"transport", "http_client"} or str(given.get(None)).startswith("client_options(")):
                wrong.append(f"{module}:{node.lineno}")
    assert not wrong
    assert found > 10
