"""The page: its header, its tabs, and the web application that serves them."""

import html
from collections.abc import Sequence

import gradio as gr
import httpx
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, HTMLResponse

from traitwatch_dashboards.inspector.api.client import Server
from traitwatch_dashboards.inspector.api.problems import TROUBLE, problem
from traitwatch_dashboards.inspector.page_head import PageHead
from traitwatch_dashboards.inspector.scored.session import VisitorSession
from traitwatch_dashboards.inspector.static_files import ASSETS, PLOTLY, head, logo, style
from traitwatch_dashboards.inspector.tabs.chat import ChatTab
from traitwatch_dashboards.inspector.tabs.compare import CompareTab
from traitwatch_dashboards.inspector.tabs.components import fragment
from traitwatch_dashboards.inspector.tabs.inspect import InspectTab
from traitwatch_dashboards.inspector.tabs.live import LiveTab
from traitwatch_dashboards.inspector.tabs.page import QUIET, Fleet, Page, problem_with
from traitwatch_dashboards.inspector.tabs.traits import TraitsTab
from traitwatch_dashboards.inspector.theme import theme

_TITLE = "Traitwatch inspector"
# Visitors whose answers may stream at the same time.
_AT_ONCE = 64
# Seconds between two checks of the servers.
_CHECK_INTERVAL = 15.0


def blocks(fleet: Fleet) -> gr.Blocks:
    """Return the page."""
    page_blocks: gr.Blocks = gr.Blocks(title=_TITLE, analytics_enabled=False, fill_width=True)
    with page_blocks:
        session = gr.State(VisitorSession(), delete_callback=lambda held: held.stop())
        page = Page(fleet, session, page_blocks)
        header = fragment(_header("", ""), elem_id="header")
        with gr.Tabs():
            with gr.Tab("Compare"):
                CompareTab(page)
            with gr.Tab("Chat"):
                ChatTab(page)
            with gr.Tab("Inspect"):
                InspectTab(page)
            with gr.Tab("Traits") as traits:
                TraitsTab(page, traits)
            with gr.Tab("Live") as live:
                LiveTab(page, live)
        clock = gr.Timer(_CHECK_INTERVAL)

        async def status() -> str:
            return await _status(fleet)

        # Gradio deletes the state of a visitor who has left only if the state was once the output of an event.
        page_blocks.load(lambda held: held, session, session, **QUIET)
        page_blocks.load(status, None, header, **QUIET)
        clock.tick(status, None, header, **QUIET)
    page_blocks.queue(default_concurrency_limit=_AT_ONCE)
    return page_blocks


def application(
    servers: Sequence[Server], *, auth: tuple[str, str] | None = None, root_path: str | None = None
) -> FastAPI:
    """Return the web application.

    Args:
        servers: the servers that the page shows; it speaks to no others.
        auth: user and password of the login; None for no login.
        root_path: the path under which a proxy serves the page.
    """
    fleet = Fleet(servers)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/traitwatch/plotly.min.js")
    async def plotly() -> FileResponse:
        return FileResponse(PLOTLY, media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})

    @app.get("/favicon.ico")
    async def favicon() -> FileResponse:
        return FileResponse(ASSETS / "favicon.svg", media_type="image/svg+xml")

    @app.get("/traitwatch/health")
    async def health() -> str:
        return "ok"

    @app.get("/traitwatch/report/{server}/{name}")
    async def report(request: Request, server: int, name: str) -> Response:
        if auth is not None and not await _logged_in(app, request):
            return HTMLResponse("Log in first.", status_code=401)
        return await _report(fleet, server, name)

    mounted: FastAPI = gr.mount_gradio_app(
        app,
        blocks(fleet),
        path="",
        auth=auth,
        root_path=root_path,
        show_error=True,
        theme=theme(),
        css=style(),
        head=head(),
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
    )
    mounted.add_middleware(PageHead, icon=logo())
    return mounted


async def _report(fleet: Fleet, server: int, name: str) -> Response:
    """Return the report of a trait, read from its server. The API key goes to the server, not to the browser."""
    if not 0 <= server < len(fleet.urls):
        return HTMLResponse("No such server.", status_code=404)
    chosen = fleet[fleet.urls[server]]
    served = await chosen.served()
    path = next((trait.report for trait in served.traits if trait.name == name), None)
    if path is None:
        return HTMLResponse(html.escape(served.problem or f"{name} has no report."), status_code=404)
    try:
        text = await chosen.text(path)
    except TROUBLE as error:
        return HTMLResponse(html.escape(problem(error, chosen.url)), status_code=502)
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox allow-popups"
    return HTMLResponse(text, headers={"Content-Security-Policy": policy})


async def _logged_in(app: FastAPI, request: Request) -> bool:
    """Return whether a request comes from a visitor who has logged in; Gradio checks the cookie."""
    transport = httpx.ASGITransport(app=app)
    headers = {"cookie": request.headers.get("cookie", "")}
    async with httpx.AsyncClient(transport=transport, base_url="http://page") as client:
        return (await client.get("/gradio_api/login_check", headers=headers)).is_success


async def _status(fleet: Fleet) -> str:
    """Return the header with the models and traits of the servers, and with their problems."""
    states = []
    problems = []
    for url in fleet.urls:
        served = await fleet[url].served()
        if problem_with(served):
            problems.append(problem_with(served))
        else:
            layers = sorted({trait.layer for trait in served.traits})
            traits = "1 trait" if len(served.traits) == 1 else f"{len(served.traits)} traits"
            at = f"layer {layers[0]}" if len(layers) == 1 else f"layers {', '.join(map(str, layers))}"
            states.append(f"{served.models[0]} · {traits} at {at}")
    return _header("; ".join(states), "\n".join(dict.fromkeys(problems)))


def _header(state: str, problem_text: str) -> str:
    dot = (
        f'<span class="tw-dot{" tw-down" if problem_text else ""}" aria-hidden="true"></span>'
        if state or problem_text
        else ""
    )
    state = html.escape(state or ("not connected" if problem_text else ""))
    problem_box = f'<p class="tw-problem" role="alert">{html.escape(problem_text)}</p>' if problem_text else ""
    return (
        '<header class="tw-header">'
        f'<img class="tw-logo" alt="" src="{logo()}"><h1>Traitwatch</h1>'
        f'<span class="tw-status">{dot}{state}</span></header>{problem_box}'
    )
