// Draws the views of the page: panes of messages with coloured tokens, the controls, and the tooltip of a token.
//
// The value of a view is a text that only grows: a line of JSON for each event (scored/journal.py of the inspector lists
// the kinds). Only new lines are read and drawn. All text of models and users is inserted as text nodes.
(() => {
  "use strict";
  const T = (window.Traitwatch = window.Traitwatch || {});

  // The choices of the reader, for all views of the page: the trait that colours tokens, and the traits with a line.
  const choice = { trait: null, lines: new Set(), byReader: false };
  const views = new Set();
  T.choice = choice;

  T.el = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined) element.setAttribute(key, value);
    }
    element.append(...children);
    return element;
  };
  const el = T.el;
  T.visible = (text) => text.replace(/\n/g, "\\n").replace(/\t/g, "\\t").replace(/\r/g, "\\r");
  const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
  const plain = (value) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(2);
  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

  function choose(trait) {
    choice.byReader = true;
    choice.lines.delete(choice.trait);
    choice.trait = trait;
    choice.lines.add(trait);
    for (const view of views) view.recolour();
  }

  class View {
    constructor(host, id) {
      this.host = host;
      this.id = id;
      this.seen = "";
      this.root = el("div", { class: "tw-view" });
      host.replaceChildren(this.root);
      views.add(this);
      this.build({ panes: [""], traits: [], hint: "", full: 4, window: 8, least: 3 });
    }

    update(text) {
      text = text || "";
      if (!text.startsWith(this.seen)) this.seen = "";
      const fresh = text.slice(this.seen.length);
      this.seen = text;
      for (const line of fresh.split("\n")) if (line) this.draw(JSON.parse(line));
      this.stats();
      this.plot.draw();
    }

    draw(line) {
      const pane = this.panes[line.p];
      if (line.k === "view") this.build(line);
      else if (line.k === "text") this.message(pane, line);
      else if (line.k === "answer") this.begin(pane, line);
      else if (line.k === "add") this.add(pane, line);
      else if (line.k === "end") this.end(pane, line);
      else if (line.k === "note") this.put(pane, el("p", { class: line.bad ? "tw-note tw-bad" : "tw-note" }, line.text));
    }

    build(line) {
      this.rule = line;
      if (line.traits.length && (!choice.byReader || !line.traits.includes(choice.trait))) {
        const focus = line.traits.includes(line.focus) ? line.focus : line.traits[0];
        if (!line.traits.includes(choice.trait) || line.focus) {
          choice.lines.clear();
          choice.trait = focus;
          choice.lines.add(focus);
        }
      }
      this.panes = line.panes.map((title, i) => this.pane(title, i, line));
      const grid = el("div", { class: "tw-panes", "data-panes": line.panes.length }, ...this.panes.map((p) => p.root));
      this.said = el("div", { class: "tw-said", "aria-live": "polite" });
      this.lines = el("div", { class: "tw-lines", role: "group", "aria-label": "Traits whose lines are drawn" });
      const canvas = el("div", { class: "tw-plot", role: "img", "aria-label": "z over tokens, a line a trait" });
      this.drawing = el("div", {}, this.lines, canvas);
      this.root.replaceChildren(this.bar(line), grid, this.said);
      this.plot = new T.Plot(canvas, this);
      this.lineBoxes(line.traits);
      this.settle();
    }

    // Put the plot into its place on the page. The page may create the place after the view.
    settle() {
      const place = document.querySelector(`.tw-place[data-view="${this.id}"]`);
      if (place) place.replaceChildren(this.drawing);
      this.plot.draw();
    }

    // The control for the trait that colours tokens, and the legend.
    bar(line) {
      this.select = el("select", { class: "tw-select", "aria-label": "Trait that colours the tokens" });
      this.select.append(...line.traits.map((name) => el("option", { value: name }, name)));
      this.select.value = choice.trait;
      this.select.addEventListener("change", () => choose(this.select.value));
      const full = line.full;
      const ticks = [-full, -full / 2, 0, full / 2, full];
      const legend = el(
        "div",
        {
          class: "tw-legend",
          role: "img",
          "aria-label": `Colour scale. Blue: z of −${full} and less, below neutral answers. No colour: 0. Orange: z of ${full} and more, above them.`,
        },
        el("div", { class: "tw-ramp" }),
        el("div", { class: "tw-ticks" }, ...ticks.map((z) => el("span", {}, z > 0 ? `+${z}` : z < 0 ? `−${-z}` : "0"))),
        el("div", { class: "tw-ends" }, el("span", {}, "below neutral"), el("span", {}, "z"), el("span", {}, "above neutral")),
      );
      this.warning = el("p", { class: "tw-note tw-bad", hidden: "" });
      const label = el("label", { class: "tw-by" }, el("span", {}, "Colour by"), this.select);
      const bar = el("div", { class: "tw-bar" }, label, legend);
      label.style.visibility = line.traits.length ? "visible" : "hidden";
      return el("div", {}, bar, this.warning);
    }

    pane(title, index, line) {
      const p = { index, title, answers: [], answer: null, fold: null };
      p.key = el("span", { class: "tw-key", "aria-hidden": "true" });
      p.stats = el("span", { class: "tw-stats" });
      p.log = el("div", { class: "tw-log", tabindex: "0", role: "region", "aria-label": title ? `Text of ${title}` : "Text" });
      if (line.hint && index === 0) p.log.append(el("p", { class: "tw-hint" }, line.hint));
      const head = el("div", { class: "tw-head" }, el("span", { class: "tw-title" }, p.key, title), p.stats);
      p.root = el("section", { class: "tw-pane" }, head, p.log);
      p.log.addEventListener("pointerover", (event) => this.point(event.target));
      p.log.addEventListener("click", (event) => this.point(event.target));
      p.log.addEventListener("pointerleave", () => T.tip.hide());
      p.log.addEventListener("scroll", () => T.tip.follow(p.log));
      p.log.addEventListener("keydown", (event) => this.walk(p, event));
      p.log.addEventListener("blur", () => T.tip.hide());
      return p;
    }

    // Append a node to a pane, and keep the end of the pane in view unless the reader scrolled away.
    put(pane, node) {
      const hint = pane.log.querySelector(":scope > .tw-hint");
      if (hint) hint.remove();
      this.follow(pane, () => pane.log.append(node));
    }

    follow(pane, change) {
      const log = pane.log;
      const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
      change();
      if (atEnd) log.scrollTop = log.scrollHeight;
    }

    message(pane, line) {
      const names = { user: "You", assistant: "Model", system: "System prompt" };
      const bubble = el(
        "div",
        { class: `tw-message tw-${line.role}` },
        el("span", { class: "tw-role" }, names[line.role] || line.role),
        el("div", { class: "tw-text" }, line.text),
      );
      if (!line.fold) {
        pane.fold = null;
        this.put(pane, bubble);
        pane.log.scrollTop = pane.log.scrollHeight;
        return;
      }
      if (!pane.fold) {
        pane.fold = { turns: 0, summary: el("summary", {}) };
        pane.fold.root = el("details", { class: "tw-fold" }, pane.fold.summary);
        this.put(pane, pane.fold.root);
      }
      pane.fold.turns += 1;
      pane.fold.summary.textContent = pane.fold.turns === 1 ? "1 earlier message" : `${pane.fold.turns} earlier messages`;
      pane.fold.root.append(bubble);
    }

    begin(pane, line) {
      const answer = new T.ScoredText(line, this.rule);
      answer.node = el("div", { class: "tw-text tw-tokens" });
      answer.node.answer = answer;
      pane.answer = answer;
      pane.answers.push(answer);
      pane.fold = null;
      this.put(
        pane,
        el("div", { class: "tw-message tw-assistant" }, el("span", { class: "tw-role" }, line.label || "Model"), answer.node),
      );
      pane.log.scrollTop = pane.log.scrollHeight;
      pane.log.setAttribute("aria-busy", "true");
    }

    add(pane, line) {
      const answer = pane.answer;
      const fresh = document.createDocumentFragment();
      for (const text of line.texts) {
        const span = el("span", { class: "t" }, text);
        span.place = answer.spans.length;
        answer.texts.push(text);
        answer.spans.push(span);
        fresh.append(span);
      }
      line.rows.forEach((row, k) => answer.score(answer.traits[k].name, line.start, row));
      const scored = line.rows.length ? Math.max(...line.rows.map((row) => row.length)) : 0;
      for (let i = line.start; i < line.start + scored; i += 1) this.paint(answer, i);
      this.follow(pane, () => answer.node.append(fresh));
    }

    end(pane, line) {
      pane.answer.summaries = line.summaries;
      for (const [name, summary] of Object.entries(line.summaries)) {
        if (pane.answer.of[name]) pane.answer.of[name].spikes = summary.spikes;
      }
      pane.log.setAttribute("aria-busy", "false");
      const summary = pane.answer.summary(choice.trait);
      if (summary && isNumber(summary.z)) {
        this.said.textContent = `${pane.title || "The answer"} has ended: mean z of ${choice.trait} ${signed(summary.z)}.`;
      }
    }

    paint(answer, i) {
      const span = answer.spans[i];
      const scores = answer.of[choice.trait];
      if (!span) return;
      const z = scores ? scores.z[i] : null;
      if (!isNumber(z)) {
        span.className = "t";
        span.style.removeProperty("--s");
        return;
      }
      span.className = z < 0 ? "t l" : "t h";
      span.style.setProperty("--s", `${Math.round(Math.min(1, Math.abs(z) / this.rule.full) * 100)}%`);
    }

    recolour() {
      if (!this.rule.traits.includes(choice.trait)) return;
      this.select.value = choice.trait;
      for (const pane of this.panes) {
        for (const answer of pane.answers) answer.spans.forEach((_, i) => this.paint(answer, i));
      }
      this.lineBoxes(this.rule.traits);
      this.stats();
      this.plot.draw();
    }

    // Mean, highest token and spikes of the last text of each pane; a warning where the trait has no z.
    stats() {
      let bare = null;
      for (const pane of this.panes) {
        const answer = pane.answers[pane.answers.length - 1];
        const summary = answer && answer.summary(choice.trait);
        pane.stats.replaceChildren();
        if (summary && isNumber(summary.z)) {
          const spikes = summary.spikes === 1 ? "1 spike" : `${summary.spikes} spikes`;
          pane.stats.append(
            el("b", {}, `mean z ${signed(summary.z)}`),
            ` · max ${signed(summary.max)} · ${spikes}`,
          );
        }
        if (answer && answer.of[choice.trait] && !isNumber(answer.of[choice.trait].trait.mean)) bare = choice.trait;
      }
      this.warning.hidden = bare === null;
      this.warning.textContent =
        bare === null
          ? ""
          : `${bare} is not calibrated on this server, so its scores have no z, no colour and no line: point at a token to ` +
            "see its projection. `traitwatch calibrate` measures a baseline; then start the server again.";
    }

    lineBoxes(traits) {
      const several = this.panes.length > 1;
      const drawn = traits.filter((name) => choice.lines.has(name)).length;
      const boxes = traits.map((name, i) => {
        const box = el("input", { type: "checkbox" });
        box.checked = choice.lines.has(name);
        box.disabled = name === choice.trait;
        box.addEventListener("change", () => {
          if (box.checked) choice.lines.add(name);
          else choice.lines.delete(name);
          for (const view of views) view.recolour();
        });
        const swatch = el("span", { class: "tw-swatch" });
        swatch.style.background = T.lineColour(this, name, 0);
        swatch.classList.toggle("tw-none", several && drawn < 2);
        return el("label", { class: "tw-line" }, box, swatch, name);
      });
      this.lines.replaceChildren(el("span", { class: "tw-caption" }, "Lines"), ...boxes);
      this.lines.hidden = traits.length < 2;
      for (const pane of this.panes) {
        pane.key.hidden = !several;
        pane.key.style.setProperty("--line", T.lineColour(this, choice.trait, pane.index));
        pane.key.classList.toggle("tw-dashed", pane.index > 0);
      }
    }

    point(target) {
      const span = target.closest ? target.closest(".t") : null;
      if (!span || !span.parentNode.answer) return T.tip.hide();
      this.show(span);
    }

    show(span) {
      const answer = span.parentNode.answer;
      const i = span.place;
      const rows = answer.traits.map((trait) => {
        const s = answer.of[trait.name];
        const projection = s.projections[i];
        const z = s.z[i];
        return el(
          "tr",
          trait.name === choice.trait ? { class: "tw-chosen" } : {},
          el("th", { scope: "row" }, trait.name),
          el("td", {}, isNumber(projection) ? plain(projection) : "–"),
          el("td", {}, isNumber(z) ? signed(z) : "–"),
        );
      });
      const head = el("tr", {}, ...["trait", "projection", "z"].map((name) => el("th", { scope: "col" }, name)));
      const unscored = answer.traits.every((trait) => !isNumber(answer.of[trait.name].projections[i]));
      const last = i === answer.spans.length - 1;
      const why = unscored ? [el("p", {}, last ? "The last token is never fed back: it has no state." : "No score.")] : [];
      T.tip.show(
        span,
        el("div", { class: "tw-token" }, el("code", {}, T.visible(answer.texts[i]) || "(nothing shown)"), ` token ${i + 1}`),
        el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows)),
        ...why,
      );
    }

    // Arrow keys move from token to token.
    walk(pane, event) {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const spans = pane.answers.flatMap((answer) => answer.spans.filter((_, i) => answer.texts[i]));
      if (!step || !spans.length) return;
      event.preventDefault();
      const now = spans.indexOf(T.tip.of);
      const next = spans[Math.max(0, Math.min(spans.length - 1, now < 0 ? (step > 0 ? 0 : spans.length - 1) : now + step))];
      next.scrollIntoView({ block: "nearest" });
      this.show(next);
    }
  }

  // The tooltip of a token, beside the token.
  T.tip = {
    of: null,
    node: null,
    show(span, ...content) {
      if (!this.node) {
        this.node = el("div", { class: "tw-tip", role: "status" });
        document.body.append(this.node);
      }
      if (this.of) this.of.classList.remove("tw-on");
      this.of = span;
      span.classList.add("tw-on");
      this.node.replaceChildren(...content);
      this.node.style.display = "block";
      this.move();
    },
    // Stay beside the token while its pane scrolls, as long as the token is visible.
    follow(log) {
      if (!this.of || !log.contains(this.of)) return;
      const [at, frame] = [this.of.getBoundingClientRect(), log.getBoundingClientRect()];
      if (at.bottom < frame.top || at.top > frame.bottom) this.hide();
      else this.move();
    },
    move() {
      const span = this.of;
      const at = span.getClientRects()[0] || span.getBoundingClientRect();
      const size = this.node.getBoundingClientRect();
      const below = at.bottom + 6 + size.height < window.innerHeight;
      this.node.style.left = `${Math.max(8, Math.min(at.left, window.innerWidth - size.width - 8))}px`;
      this.node.style.top = `${below ? at.bottom + 6 : Math.max(8, at.top - size.height - 6)}px`;
    },
    hide() {
      if (this.of) this.of.classList.remove("tw-on");
      this.of = null;
      if (this.node) this.node.style.display = "none";
    },
  };

  // Build a view in the element of a component, and read its value again whenever the value changes.
  T.view = (element, props, watch) => {
    const host = element.querySelector(".tw-host");
    const view = new View(host, host.dataset.view);
    view.update(props.value);
    watch("value", () => view.update(props.value));
  };
  T.place = () => {
    for (const view of views) view.settle();
  };
  T.views = views;
  T.repaint = () => {
    for (const view of views) {
      view.lineBoxes(view.rule.traits);
      view.plot.draw();
    }
  };
})();
