"""The fixtures of all modules: one server, one inspector and one browser."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.e2e.browsing import Visit, chromium, visit
from tests.e2e.scene import KEY, Scene, serve, set_up
from tests.support.serving import Server


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright, chromium(playwright) as started:
        yield started


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("inspector")) as served:
        yield served


@pytest.fixture(scope="session")
def scene(server: Server, browser: Browser) -> Iterator[Scene]:
    with set_up(server, browser) as ready:
        yield ready


@pytest.fixture
def seen(scene: Scene) -> Iterator[Visit]:
    with visit(scene.browser, scene.address) as one:
        yield one
        assert not any(KEY in body for body in one.bodies)
        assert KEY not in one.page.content()
