"""The page of a report shows what was measured, names what is missing, loads nothing, and escapes answers."""

import dataclasses
import datetime
import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.support.report_data import TRAIT, bare_report, full_report
from traitwatch.card import Source, SteeringResult
from traitwatch_builder.report.data import ReportData
from traitwatch_builder.report.page import render_report
from traitwatch_builder.report.plots import steering_plot
from traitwatch_builder.report.view import verdict_level
from traitwatch_builder.storage.answers import JudgedAnswer
from traitwatch_builder.vectors.report_evidence import (
    HeldOut,
    ReportEvidence,
    Sample,
)

SECTIONS = [
    "Does the vector tell the trait?",
    "The vector itself",
    "Scores of the judge",
    "Calibration",
    "Choice of layer",
    "Answers, token by token",
    "Origin of the vector",
]
PLOTS = [
    "Held-out AUC by layer",
    "Projection against judge score",
    "Length by layer",
    "Split-half cosine by layer",
    "Trait score",
    "Coherence",
    "z of neutral tokens, layer 20",
    "Steering: trait score",
    "Steering: coherence",
]


class Page(HTMLParser):
    """The parts of a page: its tags with their attributes, its texts, and the tags that are still open."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice"
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def of(self, *names: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag in names]

    def text(self, *names: str) -> list[str]:
        return [text for tag, text in self.texts if tag in names]


@pytest.fixture(scope="module")
def full() -> str:
    return render_report(full_report())


@pytest.fixture(scope="module")
def bare() -> str:
    return render_report(bare_report())


def with_sample(**changes: object) -> ReportData:
    """Return data with a calibration, few plots, and one sample with the `changes`."""
    data = full_report(answers=1, held_out=1, tokens=4)
    assert data.evidence is not None
    sample = Sample.model_validate({**data.evidence.samples[0].model_dump(), **changes})
    return dataclasses.replace(
        data,
        card=data.card.model_copy(update={"verification": None, "layer_choice": None}),
        pos=(),
        neg=(),
        evidence=ReportEvidence(sha256=data.card.sha256, layer=20, samples=[sample]),
    )


def test_the_page_of_a_finished_build_has_every_section_and_plot(full: str) -> None:
    page = Page(full)
    assert page.text("h1") == [TRAIT]
    assert page.text("h2") == SECTIONS
    assert set(PLOTS) <= set(page.text("h3"))
    assert len(page.of("svg")) == len(PLOTS)
    assert 'class="missing"' not in full


def test_the_header_has_the_verdict_the_figures_and_the_judge(full: str) -> None:
    header = full[full.index("<header>") : full.index("</header>")]
    card = full_report().card
    assert card.verification is not None
    at = {layer.layer: layer for layer in card.verification.layers}
    assert card.verification.verdict.removeprefix("Good: at") in header
    for part in ("Good", "160", "of 200 pairs", f"{at[20].auc:.3f}", f"{at[17].auc:.3f}", "10\u2009655", "likelihood"):
        assert part in header
    assert f"{at[20].split_half_cosine:.2f}" in header
    assert "own opinion" in header


@pytest.mark.parametrize(
    ("better", "verdict", "level", "word", "text"),
    [
        (True, "Good: it tells the trait.", "good", "Good", "It tells the trait."),
        (True, "Doubtful: too few answers.", "doubtful", "Doubtful", "Too few answers."),
        (False, "No better than chance: at layer 2.", "null", "No better than chance", "At layer 2."),
        (False, "Good, they say.", "null", "No better than chance", "Good, they say."),
    ],
)
def test_the_page_has_the_verdict_of_the_verification(
    better: bool, verdict: str, level: str, word: str, text: str
) -> None:
    verification = full_report(answers=1, held_out=1).card.verification
    assert verification is not None
    verification = verification.model_copy(update={"better_than_null": better, "verdict": verdict, "layers": []})
    assert verdict_level(verification) == (level, word, text)
    data = with_sample()
    page = render_report(dataclasses.replace(data, card=data.card.model_copy(update={"verification": verification})))
    assert f'class="verdict {level}"' in page
    assert text in page


def test_the_page_loads_nothing(full: str) -> None:
    page = Page(full)
    loading = {"src", "srcset", "data", "poster", "action", "xlink:href", "background"}
    assert not [(tag, a) for tag, a in page.tags if loading & a.keys()]
    links = [a["href"] for a in page.of("a")]
    assert links == ["https://arxiv.org/abs/2507.21509"]
    inner = [str(a["href"]) for tag, a in page.tags if "href" in a and tag != "a"]
    assert all(href.startswith("#") or href == "data:," for href in inner)
    assert not page.of("script", "iframe", "img", "object", "embed", "image")
    styles = "".join(page.text("style")) + "".join(a.get("style") or "" for _, a in page.tags)
    assert "@import" not in styles
    assert all(place.startswith("#") for place in re.findall(r"url\(([^)]*)\)", full))
    assert len(re.findall(r"https?://", full)) == 1
    policy = next(a for a in page.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy["content"])


def test_answers_cannot_write_html() -> None:
    attack = '<script>alert("x")</script>'
    data = with_sample(
        question=f"{attack} & more",
        answer_tokens=[attack, '" onmouseover="alert(1)', "</p>\n"],
        projections=[1.0, 40.0, None],
    )
    card = data.card.model_copy(update={"description": attack, "model": attack, "versions": {attack: attack}})
    rendered = render_report(dataclasses.replace(data, card=card))
    page = Page(rendered)
    assert not page.of("script")
    assert not [a for _, a in page.tags if "onmouseover" in a]
    # The question, the answer and the description show the attack as text.
    assert sum(attack in text for _, text in page.texts) >= 3


def test_characters_that_html_cannot_hold_become_visible() -> None:
    data = with_sample(answer_tokens=["a\x00b", "\ud800", " 🦉\n"], projections=[0.0, 0.0, 0.0])
    page = render_report(data)
    page.encode()
    assert "\x00" not in page
    assert "a␀b" in page
    assert " 🦉\n" in page


def test_tokens_are_coloured_by_z_with_their_numbers_in_reach() -> None:
    # Baseline at layer 20: mean 4, standard deviation 1.5.
    data = with_sample(
        answer_tokens=["high", "low", "even", "off", "unread"],
        projections=[4 + 1.5 * 2, 4 - 1.5 * 1, 4.0, 4 + 1.5 * 90, None],
    )
    page = render_report(data)
    assert '<span class="p4 m" title="“high”  projection 7.00  z +2.00">high</span>' in page
    assert '<span class="n2" title="“low”  projection 2.50  z \u22121.00">low</span>' in page
    assert '<span title="“even”  projection 4.00  z 0.00">even</span>' in page
    assert '<span class="p8 m"' in page
    assert re.search(r"</span>unread</p>", page)


def test_the_page_of_a_bare_vector_names_the_commands_that_make_the_rest(bare: str) -> None:
    page = Page(bare)
    assert page.text("h2") == SECTIONS
    assert len(page.of("svg")) == 1  # its length by layer needs the vector alone
    assert "Not verified" in bare
    for command in ("verify", "judge", "calibrate", "layers"):
        assert f"<code>traitwatch {command} {TRAIT}</code>" in bare


@pytest.mark.parametrize(
    ("field", "what", "command"),
    [
        ("verification", "No held-out AUC has been measured.", "verify"),
        ("calibration", "The vector has no baseline.", "calibrate"),
        ("layer_choice", "The layers have not been ranked by steering.", "layers"),
    ],
)
def test_one_missing_step_leaves_the_rest(field: str, what: str, command: str) -> None:
    data = full_report(answers=4, held_out=4, tokens=4)
    page = render_report(dataclasses.replace(data, card=data.card.model_copy(update={field: None})))
    assert f"{what} <code>traitwatch {command} {TRAIT}</code>" in page
    assert "Projection against judge score" in page


def test_without_a_calibration_tokens_are_coloured_relative_to_those_shown() -> None:
    data = with_sample(answer_tokens=["high", "low"], projections=[9.0, 1.0])
    page = render_report(dataclasses.replace(data, card=data.card.model_copy(update={"calibration": None})))
    assert "relative to the tokens shown" in page
    assert '<span class="p2" title="“high”  projection 9.00  z +1.00">high</span>' in page


def test_an_imported_vector_names_its_file() -> None:
    data = full_report()
    source = Source(
        file="<evil>.gguf",
        sha256="0" * 64,
        format="GGUF control vector",
        rows="layers",
        convention="index i of the file is the output of decoder layer i",
        layers=[1, 2],
        date=datetime.date(2026, 1, 2),
    )
    page = render_report(dataclasses.replace(data, card=data.card.model_copy(update={"source": source})))
    assert "Imported from</dt><dd><b>GGUF control vector</b><span>&lt;evil&gt;.gguf, 2026-01-02" in page


def test_without_evidence_answers_of_the_files_are_shown_uncoloured() -> None:
    data = dataclasses.replace(full_report(answers=4, held_out=4), evidence=None)
    page = render_report(data)
    assert "shown without colours" in page
    assert page.count('<article class="answer') == 4
    assert "title=" not in page


def test_answers_without_scores_are_no_obstacle() -> None:
    rows = [JudgedAnswer("q", "p", "a", "id")] * 2
    data = dataclasses.replace(full_report(answers=4, held_out=2), pos=rows, neg=rows, eval_pos=rows, eval_neg=rows)
    assert data.evidence is not None
    unscored = HeldOut(projections=[1.0, 2.0], scores=[None, None])
    evidence = data.evidence.model_copy(update={"held_out_pos": unscored, "held_out_neg": unscored})
    page = render_report(dataclasses.replace(data, evidence=evidence))
    assert "The answers have no trait scores." in page
    assert "The held-out answers have no judge scores." in page


def test_the_same_data_give_the_same_page(full: str) -> None:
    assert render_report(full_report()) == full


def test_a_page_stays_below_400_kb_even_for_a_deep_model(full: str) -> None:
    assert len(full.encode()) < 400_000
    deep = full_report(layers=80, answers=400, held_out=200, tokens=200)
    assert len(render_report(deep).encode()) < 400_000


def test_the_page_can_be_read_by_a_screen_reader(full: str) -> None:
    page = Page(full)
    assert page.open == []
    assert all(a.get("role") == "img" and len(a.get("aria-label") or "") > 20 for a in page.of("svg"))
    levels = [int(tag[1]) for tag, _ in page.tags if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = [a["id"] for _, a in page.tags if a.get("id")]
    assert len(ids) == len(set(ids))
    uses = {a["href"] for a in page.of("use")} | {f"#{i}" for i in re.findall(r"url\(#([^)]*)\)", full)}
    assert uses <= {f"#{i}" for i in ids}
    assert page.of("html")[0]["lang"] == "en"


def test_plots_follow_the_colours_of_the_page(full: str) -> None:
    plots = "".join(re.findall(r"<svg.*?</svg>", full, flags=re.DOTALL))
    assert "var(--pos)" in plots
    assert not re.findall(r"(?:fill|stroke): #[0-9a-f]{6}", plots)


def _contrast(first: str, second: str) -> float:
    """Return the contrast of two colours, as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    light, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_has_the_contrast_of_wcag_aa_in_both_colour_schemes(full: str) -> None:
    schemes = [
        dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", part)) for part in re.findall(r":root {(.*?)}", full, re.S)
    ]
    assert len(schemes) == 3  # light, dark, print
    for colours in schemes:
        for name in ("ink", "muted", "pos", "neg", "good", "doubtful", "null", "unknown"):
            for ground in ("bg", "surface"):
                if name in colours and ground in colours:
                    assert _contrast(colours[name], colours[ground]) >= 4.5, (name, ground)


def test_tokens_stay_readable_on_their_colours(full: str) -> None:
    roots = re.findall(r":root {(.*?)}", full, re.S)
    strongest = max(float(alpha) for alpha in re.findall(r"rgb\(var\(--pos-rgb\)/([\d.]+)\)", full))
    for root in roots:
        colours = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", root))
        for rgb in re.findall(r"-rgb: (\d+) (\d+) (\d+)", root):
            ground = [int(colours["surface"][i : i + 2], 16) for i in (1, 3, 5)]
            mixed = [round(strongest * int(c) + (1 - strongest) * g) for c, g in zip(rgb, ground, strict=True)]
            assert _contrast(colours["ink"], "#{:02x}{:02x}{:02x}".format(*mixed)) >= 4.5


def test_every_steered_layer_starts_from_the_unsteered_answers() -> None:
    """A card has the unsteered result once, as layer 0 and coefficient 0; layer 0 was not steered."""
    results = [
        SteeringResult(layer=layer, coefficient=coefficient, trait_score=score, coherence=90, num_answers=5)
        for layer, coefficient, score in ((0, 0.0, 30.0), (15, 2.0, 80.0), (20, 2.0, 70.0))
    ]
    plot = steering_plot("steering", "trait", results)
    assert "layer 15" in plot
    assert "layer 20" in plot
    assert "layer 0" not in plot
    assert "layers 15, 20." in plot
