"""Draws the two pictures of docs/explanation/architecture.md: the path of a token, and the path of a trait.

A picture is a list of lanes, boxes and arrows with their places in SVG units. `diagrams` returns each picture as SVG.
Texts stay texts, so that a reader can search and copy them. A white card lies below, so that a picture reads alike on
light and dark pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from traitwatch_builder.report.plots import INK, MUTED, NEG, POS

_SANS = "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif"
_MONO = "ui-monospace, Menlo, 'DejaVu Sans Mono', monospace"
_LANE_FILL = "#f4f6f8"
_BOX_EDGE = {"ours": POS, "vllm": MUTED, "file": NEG}
_LINE = 16.0


@dataclass(frozen=True)
class Lane:
    """A process, or a place: a tinted area with a heading.

    Attributes:
        x: left edge.
        y: upper edge.
        width: from left to right.
        height: from top to bottom.
        title: the heading.
    """

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Box:
    """A step, or a file.

    Attributes:
        x: left edge.
        y: upper edge.
        width: from left to right.
        height: from top to bottom.
        title: the first line, in bold.
        lines: the lines below. A line between back quotes is code.
        kind: `ours` for code of Traitwatch, `vllm` for code of others, `file` for a file.
    """

    x: float
    y: float
    width: float
    height: float
    title: str
    lines: Sequence[str] = ()
    kind: str = "ours"


@dataclass(frozen=True)
class Arrow:
    """A line through points, with a head at its last point.

    Attributes:
        points: x and y of each corner.
        label: text at `label_at`; empty for none.
        label_at: x and y of the label's middle.
    """

    points: Sequence[tuple[float, float]]
    label: str = ""
    label_at: tuple[float, float] = (0, 0)


def diagrams() -> dict[str, str]:
    """Return both pictures, SVG by file name."""
    return {"path-of-a-token.svg": _path_of_a_token(), "path-of-a-trait.svg": _path_of_a_trait()}


def _path_of_a_token() -> str:
    lanes = [
        Lane(12, 12, 216, 536, "engine and workers"),
        Lane(268, 12, 396, 536, "API process"),
        Lane(704, 12, 136, 536, "outside"),
    ]
    boxes = [
        Box(480, 48, 172, 60, "1. Middleware", ["reads `traits`", "`responses/middleware.py`"]),
        Box(280, 48, 172, 60, "2. Engine client", ["gives the call a key", "`app/engine.py`"]),
        Box(24, 48, 192, 60, "3. vLLM's engine", ["schedules the tokens", "of many requests"], "vllm"),
        Box(24, 148, 192, 60, "4. Decoder layer L", ["hidden state of each token", "on the device"], "vllm"),
        Box(24, 248, 192, 76, "5. Hook and projection",
            ["one product for each trait,", "in the compiled graph", "`worker/tap.py`"]),
        Box(24, 364, 192, 60, "6. Rows", ["request, position, token", "`worker/rows.py`"]),
        Box(24, 476, 192, 60, "7. Sender", ["one frame for each pass", "`worker/sender.py`"]),
        Box(280, 476, 172, 60, "8. Receiver", ["reads the frames", "`ledger/receiver.py`"]),
        Box(280, 364, 172, 60, "9. Ledger", ["rows by request, position", "`ledger/ledger.py`"]),
        Box(280, 248, 172, 76, "10. Scores",
            ["of rows whose token is", "the token of the answer", "`ledger/scores.py`"]),
        Box(480, 148, 172, 60, "11. Attacher", ["JSON, or events", "`responses/attach.py`"]),
        Box(480, 256, 172, 60, "12. Recorder", ["every ended answer", "`recording/recorder.py`"]),
        Box(480, 356, 172, 44, "metrics", ["`metrics.py`"]),
        Box(480, 424, 172, 44, "spike log", ["`recording/spike_log.py`"]),
        Box(480, 492, 172, 44, "OpenTelemetry", ["`recording/telemetry.py`"]),
        Box(716, 48, 112, 160, "client", ["OpenAI's SDK,", "Anthropic's", "SDK, curl,", "inspector"], "vllm"),
        Box(716, 356, 112, 44, "Prometheus", ["alerts"], "vllm"),
        Box(716, 424, 112, 44, "a file", ["lines of JSON"], "file"),
        Box(716, 492, 112, 44, "a collector", ["events"], "vllm"),
    ]  # fmt: skip
    arrows = [
        Arrow([(716, 78), (652, 78)], "request", (684, 70)),
        Arrow([(480, 78), (452, 78)]),
        Arrow([(280, 78), (216, 78)], "key", (248, 70)),
        Arrow([(120, 108), (120, 148)]),
        Arrow([(120, 208), (120, 248)]),
        Arrow([(120, 324), (120, 364)]),
        Arrow([(120, 424), (120, 476)]),
        Arrow([(216, 506), (280, 506)], "ZeroMQ", (248, 498)),
        Arrow([(366, 476), (366, 424)]),
        Arrow([(366, 364), (366, 324)]),
        Arrow([(416, 248), (416, 178), (480, 178)]),
        Arrow([(316, 108), (316, 248)], "output tokens", (358, 132)),
        Arrow([(452, 286), (480, 286)]),
        Arrow([(652, 178), (716, 178)], "response", (684, 170)),
        Arrow([(566, 316), (566, 356)]),
        Arrow([(480, 300), (466, 300), (466, 446), (480, 446)]),
        Arrow([(466, 446), (466, 514), (480, 514)]),
        Arrow([(652, 378), (716, 378)], "/metrics", (684, 370)),
        Arrow([(652, 446), (716, 446)]),
        Arrow([(652, 514), (716, 514)]),
    ]
    return _svg(
        852,
        560,
        lanes,
        boxes,
        arrows,
        "The path of a token",
        "A request goes from the client through the middleware and the engine client to vLLM's engine. In the worker a"
        " hook projects the hidden state of each token. Rows go through the sender to the API process. The ledger keeps"
        " the rows. A row counts where its token is the token of the answer."
        " The attacher puts the scores into the response. The recorder counts every answer.",
    )


def _path_of_a_trait() -> str:
    lanes = [
        Lane(12, 12, 816, 348, "builder: from a name to a vector"),
        Lane(12, 372, 816, 100, "server: from a vector to scores"),
    ]
    boxes = [
        Box(24, 48, 172, 60, "1. Define", ["pairs, questions, prompt", "`definitions/`"]),
        Box(232, 48, 172, 60, "2. Respond", ["the model answers", "`answering/`"]),
        Box(440, 48, 172, 60, "3. Judge", ["two scores an answer", "`judging/`"]),
        Box(648, 48, 168, 60, "4. Read and extract", ["mean hidden states", "`reading/`, `vectors/`"]),
        Box(24, 152, 172, 60, "definition", ["`trait_data_extract/`", "`trait_data_eval/`"], "file"),
        Box(232, 152, 172, 60, "answers", ["`TRAIT_pos.csv`", "`TRAIT_neg.csv`"], "file"),
        Box(440, 152, 172, 60, "judged answers", ["the same files, with", "two more columns"], "file"),
        Box(648, 152, 168, 60, "persona vector", ["`TRAIT_response_`", "`avg_diff.pt`"], "file"),
        Box(648, 256, 168, 92, "5. Verify", ["does it tell held-out", "answers apart?", "`vectors/verify.py`"]),
        Box(440, 256, 172, 92, "6. Calibrate",
            ["neutral answers: mean,", "deviation, thresholds", "`vectors/calibrate.py`"]),
        Box(232, 256, 172, 92, "card", ["verdict, baseline,", "thresholds, hash", "`TRAIT.json`"], "file"),
        Box(24, 256, 172, 92, "7. Report", ["one page with plots", "`TRAIT.html`", "`report/`"]),
        Box(232, 402, 172, 60, "8. Load", ["a column of the tap", "`traits.py`"]),
        Box(440, 402, 172, 60, "9. Score", ["every generated token", "`worker/tap.py`"]),
        Box(648, 402, 168, 60, "scores", ["responses, metrics,", "alerts"], "file"),
        Box(24, 402, 172, 60, "`traitwatch serve`", ["finds vector and card", "`--traits DIR`"]),
    ]  # fmt: skip
    arrows = [
        *(Arrow([(x, 108), (x, 152)]) for x in (110, 318, 526, 732)),
        *(Arrow([(x, 182), (x + 18, 182), (x + 18, 78), (x + 36, 78)]) for x in (196, 404, 612)),
        Arrow([(732, 212), (732, 256)]),
        Arrow([(648, 302), (612, 302)]),
        Arrow([(440, 302), (404, 302)]),
        Arrow([(232, 302), (196, 302)]),
        Arrow([(318, 348), (318, 402)]),
        Arrow([(196, 432), (232, 432)]),
        Arrow([(404, 432), (440, 432)]),
        Arrow([(612, 432), (648, 432)]),
    ]
    return _svg(
        840,
        484,
        lanes,
        boxes,
        arrows,
        "The path of a trait",
        "A name becomes a definition. The model answers under both conditions. A judge scores the answers. The"
        " difference of the mean hidden states is the persona vector. Verification and calibration fill the card. The"
        " server loads the vector and the card, and scores every generated token.",
    )


def _svg(
    width: int,
    height: int,
    lanes: Sequence[Lane],
    boxes: Sequence[Box],
    arrows: Sequence[Arrow],
    title: str,
    description: str,
) -> str:
    """Return a picture of `width` by `height` units; the title and the description are for screen readers."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' role="img" aria-labelledby="title description">',
        f'<title id="title">{escape(title)}</title>',
        f'<desc id="description">{escape(description)}</desc>',
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        f'<path d="M0 0L8 4L0 8z" fill="{INK}"/></marker></defs>',
        f'<rect width="{width}" height="{height}" rx="8" fill="#ffffff"/>',
        *(_lane(lane) for lane in lanes),
        *(_box(box) for box in boxes),
        *(_arrow(arrow) for arrow in arrows),
        "</svg>",
        "",
    ]
    return "\n".join(parts)


def _lane(lane: Lane) -> str:
    area = f'<rect x="{lane.x:g}" y="{lane.y:g}" width="{lane.width:g}" height="{lane.height:g}" rx="6"'
    heading = _text(lane.x + 12, lane.y + 22, lane.title, size=14, fill=MUTED, weight="bold", anchor="start")
    return f'{area} fill="{_LANE_FILL}"/>{heading}'


def _box(box: Box) -> str:
    edge = f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="5" fill="#ffffff"'
    middle = box.x + box.width / 2
    first = box.y + box.height / 2 - _LINE * len(box.lines) / 2 + 5
    texts = [_text(middle, first, box.title, size=14, fill=INK, weight="bold")]
    texts += [
        _text(middle, first + _LINE * number, line, size=12.5, fill=INK) for number, line in enumerate(box.lines, 1)
    ]
    return f'{edge} stroke="{_BOX_EDGE[box.kind]}" stroke-width="1.6"/>{"".join(texts)}'


def _arrow(arrow: Arrow) -> str:
    path = "L".join(f"{x:g} {y:g}" for x, y in arrow.points)
    line = f'<path d="M{path}" fill="none" stroke="{INK}" stroke-width="1.4" marker-end="url(#head)"/>'
    return line + (_text(*arrow.label_at, arrow.label, size=11.5, fill=MUTED) if arrow.label else "")


def _text(
    x: float, y: float, text: str, *, size: float, fill: str, weight: str = "normal", anchor: str = "middle"
) -> str:
    """Return a line of text. What stands between back quotes is set in a fixed width."""
    spans = []
    for number, part in enumerate(text.split("`")):
        family = f' font-family="{_MONO}" font-size="{size - 1.5:g}"' if number % 2 else ""
        spans += [f"<tspan{family}>{escape(part)}</tspan>"] if part else []
    return (
        f'<text x="{x:g}" y="{y:g}" font-family="{_SANS}" font-size="{size:g}" font-weight="{weight}" fill="{fill}"'
        f' text-anchor="{anchor}">{"".join(spans)}</text>'
    )
