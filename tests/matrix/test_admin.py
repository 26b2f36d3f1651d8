"""Traits are loaded and unloaded at run time: only with the key, only from the directory, never under a request."""

import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from rich.console import Console

from tests.support.answers import received_choices
from tests.support.cases import COMPLETIONS
from tests.support.published import FORMATS
from tests.support.random_llama import HIDDEN_SIZE, NUM_LAYERS, Oracle
from tests.support.serving import MODEL_NAME, OPERATOR, WITH_ADMIN_KEY, Server, serving
from traitwatch.vectors import load_tensor, save_tensor
from traitwatch_builder.importing.step import ImportOptions, import_step
from traitwatch_builder.storage.workspace import Workspace
from traitwatch_server.traits import ADMIN_COLUMNS

pytestmark = pytest.mark.engine

KEY = "a-secret"
# Ten seconds of `SlowWorker`, so that a test can change a stream's trait in the middle of the stream.
LONG = 500
TOO_EARLY = "the streams were over too early to tell"
VECTOR = "probe2_response_avg_diff.pt"


def _save(file: Path, seed: int, shape: tuple[int, int] = (NUM_LAYERS + 1, HIDDEN_SIZE)) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    save_tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32), file)


@dataclass
class Stream:
    """A running stream.

    Attributes:
        running: set after the first events.
        answer: the whole answer at the end of the stream.
    """

    running: threading.Event = field(default_factory=threading.Event)
    answer: "Future[httpx.Response]" = field(default_factory=Future)


@dataclass(frozen=True)
class Admin:
    """The server and a client with its key.

    Attributes:
        server: the server.
        directory: the directory of --traits: `probe2`, and below it vectors that the server did not load at its start.
    """

    server: Server
    directory: Path

    def call(self, method: str, path: str, body: Any = None, key: str | None = KEY) -> httpx.Response:
        headers = OPERATOR | ({"authorization": f"Bearer {key}"} if key else {})
        return httpx.request(method, f"{self.server.url}{path}", json=body, headers=headers, timeout=60)

    def load(self, name: str, path: str | None = None, **fields: Any) -> httpx.Response:
        return self.call("POST", f"/v1/traits/{name}", fields if path is None else {"path": path, **fields})

    def unload(self, name: str) -> httpx.Response:
        return self.call("DELETE", f"/v1/traits/{name}")

    def names(self) -> list[str]:
        return [trait["id"] for trait in self.call("GET", "/v1/traits").json()["data"]]

    def ask(self, max_tokens: int = 8, **fields: Any) -> httpx.Response:
        return self.call("POST", COMPLETIONS, self._body(max_tokens) | fields)

    @contextmanager
    def streams(self, count: int) -> Iterator[list[Stream]]:
        """Start some streams; at the end of the block, wait until they have ended."""
        streams = [Stream() for _ in range(count)]
        with ThreadPoolExecutor(count) as clients:
            for stream in streams:
                clients.submit(self._read, stream)
            for stream in streams:
                assert stream.running.wait(60)
            yield streams

    def _read(self, stream: Stream) -> None:
        headers = {"authorization": f"Bearer {KEY}"}
        body = self._body(LONG) | {"stream": True}
        try:
            with httpx.stream(
                "POST", f"{self.server.url}{COMPLETIONS}", json=body, headers=headers, timeout=60
            ) as response:
                received = b""
                for chunk in response.iter_bytes():
                    received += chunk
                    if not stream.running.is_set() and received.count(b"data: ") > 4:
                        stream.running.set()
            stream.answer.set_result(httpx.Response(200, headers=response.headers, content=received))
        except Exception as error:  # noqa: BLE001 (the test that asks for the answer raises it)
            stream.answer.set_exception(error)

    def _body(self, max_tokens: int) -> dict[str, Any]:
        return {
            "model": MODEL_NAME,
            "prompt": "The sea was calm",
            "max_tokens": max_tokens,
            "ignore_eos": True,
            "return_token_ids": True,
        }


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("admin")
    directory = root / "vectors"
    _save(directory / VECTOR, 1)
    _save(directory / "other" / VECTOR, 2)
    _save(directory / "other" / "probe4_response_avg_diff.pt", 3)
    _save(directory / "bad" / "wide.pt", 4, (NUM_LAYERS + 1, HIDDEN_SIZE + 1))
    _save(directory / "bad" / "deep.pt", 5, (NUM_LAYERS + 2, HIDDEN_SIZE))
    torch.save({"vector": torch.zeros(NUM_LAYERS + 1, HIDDEN_SIZE)}, directory / "bad" / "dictionary.pt")
    save_tensor(np.zeros((NUM_LAYERS + 1, HIDDEN_SIZE), dtype=np.float32), directory / "bad" / "zero.pt")
    # Files outside of the directory, and the paths to them.
    _save(root / "outside" / VECTOR, 6)
    (directory / "bad" / "link.pt").symlink_to(root / "outside" / VECTOR)
    (directory / "bad" / "linked").symlink_to(root / "outside")
    (directory / "bad" / "loop").symlink_to(directory / "bad" / "loop")
    return directory


@pytest.fixture(scope="module")
def admin(model: Path, directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    command = [
        *WITH_ADMIN_KEY,
        sys.executable,
        "-m",
        "tests.support.slow",
        "serve",
        str(model),
        "--traits",
        str(directory),
    ]
    ours = ["--traits-layer", "2", "--traits-tap", "4", "--traits-admin"]
    options = ["--api-key", KEY, "--dtype", "float32", "--enforce-eager"]
    with serving([*command, *ours, *options], tmp_path_factory.mktemp("admin") / "server.log") as server:
        yield Admin(server, directory)


@pytest.fixture(autouse=True)
def as_at_the_start(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "admin" in request.fixturenames:
        admin: Admin = request.getfixturevalue("admin")
        for name in admin.names():
            if name != "probe2":
                assert admin.unload(name).status_code == 200
        assert admin.load("probe2", VECTOR).status_code == 200


@pytest.fixture(scope="module")
def first(model: Path, directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    """The projections of the first vector `probe2`, with which the server starts."""
    alone = tmp_path_factory.mktemp("first")
    shutil.copy(directory / VECTOR, alone)
    return Oracle(model, alone)


@pytest.fixture(scope="module")
def other(model: Path, directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    """The projections of the other vector with this name."""
    alone = tmp_path_factory.mktemp("other")
    shutil.copy(directory / "other" / VECTOR, alone)
    return Oracle(model, alone)


def check(oracle: Oracle, answer: httpx.Response, name: str = "probe2") -> int:
    """Assert that trait `name` of an answer has the oracle's projections of `probe2`. Return the number of tokens."""
    (one,) = received_choices(answer).values()
    assert one.complete is True
    oracle.check({"probe2": one.traits[name]}, one.prompt, one.tokens)
    return len(one.tokens)


@pytest.mark.parametrize("key", [None, "a-guess"])
def test_nothing_is_listed_or_changed_without_the_key(key: str | None, admin: Admin) -> None:
    assert admin.call("GET", "/v1/traits", key=key).status_code == 401
    assert admin.call("POST", "/v1/traits/more", {"path": VECTOR}, key=key).status_code == 401
    assert admin.call("DELETE", "/v1/traits/probe2", key=key).status_code == 401
    assert admin.call("POST", COMPLETIONS, {"model": MODEL_NAME, "prompt": "x"}, key=key).status_code == 401
    # Without the key, the answer is the same for a trait that does not exist. So it does not show which traits exist.
    answer = admin.call(
        "POST", COMPLETIONS, {"model": MODEL_NAME, "prompt": "x", "traits": {"include": ["x"]}}, key=key
    )
    assert answer.status_code == 401
    assert admin.names() == ["probe2"]


@pytest.mark.parametrize(
    "path",
    [
        "../outside/probe2_response_avg_diff.pt",
        "other/../../outside/probe2_response_avg_diff.pt",
        "bad/link.pt",
        "bad/linked/probe2_response_avg_diff.pt",
        "bad/loop",
        "nowhere.pt",
        "other",
        ".",
        "",
        "a\0b.pt",
        "a" * 5000,
        "/etc/passwd",
        "ABSOLUTE",
    ],
)
def test_a_file_that_is_not_below_the_directory_is_not_loaded(path: str, admin: Admin) -> None:
    outside = admin.directory.parent / "outside" / VECTOR
    response = admin.load("more", str(outside) if path == "ABSOLUTE" else path)
    assert response.status_code == 400, response.text
    assert "no file below the directories" in response.json()["error"]["message"]
    assert admin.names() == ["probe2"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"path": "bad/wide.pt"}, "[5, 129]"),
        ({"path": "bad/deep.pt"}, "[6, 128]"),
        ({"path": "bad/dictionary.pt"}, "not a plain tensor"),
        ({"path": "bad/zero.pt"}, "zero at layer 2"),
        ({"path": VECTOR, "layer": 1}, "layer 1 is not tapped; tapped are 2, 4"),
        ({"path": VECTOR, "layer": 99}, "layer 99 is not tapped"),
        ({"path": VECTOR, "layer": -1}, "layer -1 is not tapped"),
        ({"path": VECTOR, "layer": "best"}, "no card that says which layer is best"),
        ({"path": VECTOR, "layer": "last"}, "layer"),
        ({"path": VECTOR, "layers": 2}, "layers"),
        ({"path": 2}, "path"),
        ([], ""),
        ({}, "'more_response_avg_diff.pt' is no file"),
    ],
)
def test_a_vector_that_does_not_fit_is_not_loaded(body: Any, reason: str, admin: Admin) -> None:
    response = admin.call("POST", "/v1/traits/more", body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert reason in error["message"]
    assert error["code"] == 400
    assert admin.names() == ["probe2"]


@pytest.mark.parametrize("name", ["%2E%2E", "a b", ".hidden", "x" * 65, "caf%C3%A9"])
def test_a_trait_has_a_proper_name(name: str, admin: Admin) -> None:
    response = admin.load(name, VECTOR)
    assert response.status_code == 400, response.text
    assert "is not a trait name" in response.json()["error"]["message"]


def test_a_trait_is_loaded_scored_and_unloaded(admin: Admin, first: Oracle, other: Oracle) -> None:
    loaded = admin.load("second", "other/probe2_response_avg_diff.pt")
    assert loaded.status_code == 200
    assert (loaded.json()["id"], loaded.json()["layer"]) == ("second", 2)
    assert admin.names() == ["probe2", "second"]
    answer = admin.ask()
    check(first, answer)
    check(other, answer, "second")
    assert list(received_choices(admin.ask(traits={"include": ["second"]}))[0].traits) == ["second"]
    assert admin.unload("second").json() == {"id": "second", "object": "trait", "deleted": True}
    assert admin.names() == ["probe2"]
    assert list(received_choices(admin.ask())[0].traits) == ["probe2"]
    refused = admin.ask(traits={"include": ["second"]})
    assert refused.status_code == 400
    again = admin.unload("second")
    assert again.status_code == 404
    assert "'second'" in again.json()["error"]["message"]


@pytest.mark.parametrize(
    "name", ["a tensor without row 0", "layers under a key", "safetensors of layers", "a control vector", ".npz"]
)
def test_an_imported_vector_scores_like_the_vector_that_was_published(
    name: str, admin: Admin, model: Path, first: Oracle, tmp_path: Path
) -> None:
    published = tmp_path / "published"
    published.write_bytes(FORMATS[name][0](load_tensor(admin.directory / VECTOR)))
    workspace = Workspace(admin.directory / tmp_path.name, "published")
    card = import_step(published, workspace, ImportOptions(str(model)), Console(quiet=True))
    assert admin.load("published", f"{tmp_path.name}/published_response_avg_diff.pt").status_code == 200
    check(first, admin.ask(), "published")
    (listed,) = (trait for trait in admin.call("GET", "/v1/traits").json()["data"] if trait["id"] == "published")
    assert (listed["sha256"], listed["calibration"]) == (card.sha256, None)


def test_a_trait_is_loaded_at_a_layer_that_no_trait_had(
    admin: Admin, model: Path, tmp_path: Path, first: Oracle
) -> None:
    assert admin.load("probe4", "other/probe4_response_avg_diff.pt", layer=4).json()["layer"] == 4
    shutil.copy(admin.directory / "other" / "probe4_response_avg_diff.pt", tmp_path)
    answer = admin.ask()
    check(first, answer)
    (one,) = received_choices(answer).values()
    Oracle(model, tmp_path).check(one.traits, one.prompt, one.tokens)


def test_a_stream_keeps_the_vector_with_which_it_began(admin: Admin, first: Oracle, other: Oracle) -> None:
    with admin.streams(3) as streams:
        assert admin.load("probe2", "other/probe2_response_avg_diff.pt").status_code == 200
        later = [admin.ask(), admin.ask(stream=True)]
        assert not any(stream.answer.done() for stream in streams), TOO_EARLY
    for stream in streams:
        assert check(first, stream.answer.result()) == LONG
    for answer in [*later, admin.ask()]:
        check(other, answer)


def test_a_stream_keeps_a_trait_that_is_unloaded_while_others_come(admin: Admin, first: Oracle, other: Oracle) -> None:
    later = {}
    with admin.streams(3) as streams:
        assert admin.unload("probe2").status_code == 200
        without = admin.ask()
        # Load more traits than columns have been in use. If the streams' column were free, one of them would get it.
        for name in ("second", "third", "fourth"):
            assert admin.load(name, "other/probe2_response_avg_diff.pt").status_code == 200
            later[name] = admin.ask()
        assert not any(stream.answer.done() for stream in streams), TOO_EARLY
    for stream in streams:
        assert check(first, stream.answer.result()) == LONG
    assert received_choices(without)[0].traits == {}
    for name, answer in later.items():
        check(other, answer, name)


def test_traits_come_and_go_under_a_load(admin: Admin, first: Oracle, other: Oracle) -> None:
    """Each answer has the vectors of the moment at which the server received its request."""
    with ThreadPoolExecutor(8) as clients:
        answers = []
        for number in range(16):
            admin.load("probe2", f"{'other/' if number % 2 else ''}{VECTOR}")
            answers.append(clients.submit(admin.ask, 20))
            # Each vector scores at least this request before the next vector is loaded.
            check(other if number % 2 else first, admin.ask(2))
    by_first = by_other = 0
    for answer in answers:
        (one,) = received_choices(answer.result()).values()
        is_first, is_other = (_is(oracle, one.traits, one.prompt, one.tokens) for oracle in (first, other))
        assert is_first != is_other, "an answer has two vectors"
        by_first, by_other = by_first + is_first, by_other + is_other
    assert min(by_first, by_other) > 0


def _is(oracle: Oracle, *answer: Any) -> bool:
    try:
        oracle.check(*answer)
    except AssertionError:
        return False
    return True


def test_all_columns_can_be_filled_and_a_column_is_free_when_its_last_request_has_ended(
    admin: Admin, first: Oracle, other: Oracle
) -> None:
    paths = (VECTOR, "other/probe2_response_avg_diff.pt")
    for number in range(1, ADMIN_COLUMNS):
        assert admin.load(f"trait{number}", paths[number % 2]).status_code == 200
    answer = admin.ask()
    for number in range(1, ADMIN_COLUMNS):
        check(other if number % 2 else first, answer, f"trait{number}")
    full = admin.load("more", VECTOR)
    assert full.status_code == 409
    assert "64 columns" in full.json()["error"]["message"]
    with admin.streams(1) as (stream,):
        assert admin.unload("trait7").status_code == 200
        still_full = admin.load("more", VECTOR)
        assert not stream.answer.done(), TOO_EARLY
        assert still_full.status_code == 409
    check(other, stream.answer.result(), "trait7")
    assert admin.load("more", VECTOR).status_code == 200
    answer = admin.ask()
    check(first, answer, "more")
    check(other, answer, "trait9")
