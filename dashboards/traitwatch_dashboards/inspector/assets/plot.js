// Draws lines with Plotly, in the colours of the page's theme. The page loads Plotly once, from its own server.
(() => {
  "use strict";
  const T = (window.Traitwatch = window.Traitwatch || {});
  const LIGHT = ["#b4430a", "#0b62a8", "#0a6b4f", "#8a3ea8", "#855600", "#3b4a5a", "#a8326e", "#00707a"];
  const DARK = ["#f79256", "#74b6f3", "#5fcfa8", "#d19bf0", "#e8b654", "#b8c4d0", "#f29ac0", "#6fd0d8"];
  const CONFIG = { displayModeBar: false, responsive: true };
  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

  // Plotly interprets a few HTML tags in hover texts, so the text of a model is escaped.
  const escaped = (text) =>
    T.visible(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  T.dark = () => document.body.classList.contains("dark");
  T.palette = (i) => {
    const colours = T.dark() ? DARK : LIGHT;
    return colours[i % colours.length];
  };

  // One colour for each trait; where one trait is drawn for two panes, one colour for each pane.
  T.lineColour = (view, trait, pane) => {
    const drawn = view.rule.traits.filter((name) => T.choice.lines.has(name));
    if (view.panes.length > 1 && drawn.length < 2) return T.palette(pane);
    return T.palette(Math.max(0, view.rule.traits.indexOf(trait)));
  };

  let loading = null;
  T.plotly = () => {
    if (!loading) {
      loading = new Promise((resolve, reject) => {
        const root = ((window.gradio_config && window.gradio_config.root) || "").replace(/\/$/, "");
        const script = document.createElement("script");
        script.src = `${root}/traitwatch/plotly.min.js`;
        script.onload = () => resolve(window.Plotly);
        script.onerror = () => reject(new Error("Plotly could not be loaded"));
        document.head.append(script);
      });
    }
    return loading;
  };

  function theme() {
    const style = getComputedStyle(document.body);
    const read = (name, fallback) => style.getPropertyValue(name).trim() || fallback;
    return {
      ink: read("--body-text-color-subdued", "#59626d"),
      strong: read("--body-text-color", "#1b1f24"),
      grid: read("--border-color-primary", "#dcdfe4"),
      ground: read("--block-background-fill", "#ffffff"),
      font: read("--font", "system-ui, sans-serif"),
    };
  }

  T.layout = (extra = {}) => {
    const t = theme();
    const axis = { gridcolor: t.grid, zerolinecolor: t.ink, zerolinewidth: 1, linecolor: t.grid, tickfont: { size: 11 }, fixedrange: true };
    return {
      font: { family: t.font, size: 12, color: t.ink },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      margin: { l: 44, r: 12, t: 12, b: 40 },
      showlegend: false,
      hovermode: "x unified",
      hoverlabel: { bgcolor: t.ground, bordercolor: t.grid, font: { color: t.strong, size: 12 } },
      autosize: true,
      ...extra,
      xaxis: { ...axis, zeroline: false, ...(extra.xaxis || {}) },
      yaxis: { ...axis, ...(extra.yaxis || {}) },
    };
  };

  // Combines calls of `draw`: one drawing at a time. The pause between drawings grows with the time of a drawing.
  class Throttled {
    constructor(node) {
      this.node = node;
      this.timer = null;
      this.wait = 0;
    }

    draw() {
      if (this.timer === null) this.timer = setTimeout(() => this.now(), this.wait);
    }

    async now() {
      const Plotly = await T.plotly();
      if (this.node.isConnected && this.node.offsetWidth > 0) {
        const began = performance.now();
        const { data, layout } = this.figure();
        await Plotly.react(this.node, data, layout, CONFIG);
        this.wait = Math.max(150, 4 * (performance.now() - began));
      }
      this.timer = null;
      if (this.again) {
        this.again = false;
        this.draw();
      }
    }
  }

  // The plot of a view: lines of z over tokens.
  T.Plot = class extends Throttled {
    constructor(node, view) {
      super(node);
      this.view = view;
      new ResizeObserver(() => this.draw()).observe(node);
    }

    draw() {
      if (this.timer !== null) this.again = true;
      else super.draw();
    }

    figure() {
      const view = this.view;
      const drawn = view.rule.traits.filter((name) => T.choice.lines.has(name));
      const data = [];
      const shapes = [];
      const annotations = [];
      const thresholds = new Set();
      let longest = 0;
      let low = -2;
      let high = 4;
      for (const pane of view.panes) {
        for (const name of drawn) {
          const colour = T.lineColour(view, name, pane.index);
          const x = [];
          const raw = [];
          const smooth = [];
          const words = [];
          let offset = 0;
          for (const answer of pane.answers) {
            const s = answer.of[name];
            if (s) {
              for (let i = 0; i < s.z.length; i += 1) {
                x.push(offset + i + 1);
                raw.push(isNumber(s.z[i]) ? s.z[i] : null);
                smooth.push(isNumber(s.smooth[i]) ? s.smooth[i] : null);
                words.push(escaped(answer.texts[i] || ""));
                if (isNumber(s.z[i])) {
                  low = Math.min(low, name === T.choice.trait ? s.z[i] : s.smooth[i]);
                  high = Math.max(high, name === T.choice.trait ? s.z[i] : s.smooth[i]);
                }
              }
              x.push(offset + s.z.length + 0.5);
              raw.push(null);
              smooth.push(null);
              words.push("");
              for (const spike of s.spikes) {
                shapes.push({
                  type: "rect", layer: "below", xref: "x", yref: "paper", y0: 0, y1: 1, line: { width: 0 },
                  x0: offset + spike.start + 0.5, x1: offset + spike.end + 0.5, fillcolor: colour, opacity: 0.16,
                });
              }
              if (isNumber(s.trait.threshold)) thresholds.add(`${name}\n${s.trait.threshold}`);
            }
            offset += answer.texts.length;
            if (answer !== pane.answers[pane.answers.length - 1]) {
              shapes.push({
                type: "line", xref: "x", yref: "paper", x0: offset + 0.5, x1: offset + 0.5, y0: 0, y1: 1,
                line: { width: 1, dash: "dot", color: theme().ink },
              });
            }
          }
          longest = Math.max(longest, offset);
          const several = view.panes.length > 1;
          const label = [several ? pane.title : "", drawn.length > 1 || !several ? name : ""].filter(Boolean).join(" · ");
          if (name === T.choice.trait) {
            // A browser draws thousands of dots slowly. One faint line shows the same.
            data.push({
              x, y: raw, mode: x.length > 500 ? "lines" : "markers", type: "scatter", hoverinfo: "skip", showlegend: false,
              opacity: 0.38, marker: { color: colour, size: 3.5 }, line: { color: colour, width: 0.7 },
            });
          }
          data.push({
            x, y: smooth, customdata: raw.map((z, i) => [z, words[i]]), mode: "lines", type: "scatter", name: label, connectgaps: false,
            line: { color: colour, width: name === T.choice.trait ? 2.4 : 1.5, dash: pane.index ? "dash" : "solid" },
            hovertemplate: "%{y:.2f}, token alone %{customdata[0]:.2f} “%{customdata[1]}”",
          });
        }
      }
      for (const entry of thresholds) {
        const [name, value] = entry.split("\n");
        const level = Number(value);
        high = Math.max(high, level);
        const colour = drawn.length > 1 ? T.palette(view.rule.traits.indexOf(name)) : theme().ink;
        shapes.push({ type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: level, y1: level, line: { width: 1, dash: "dash", color: colour } });
        if (name === T.choice.trait) {
          annotations.push({
            xref: "paper", x: 1, xanchor: "right", yref: "y", y: level, yanchor: "bottom", showarrow: false,
            text: `spike threshold ${level.toFixed(1)}`, font: { size: 11, color: theme().ink },
          });
        }
      }
      const pad = 0.06 * (high - low);
      const layout = T.layout({
        shapes,
        annotations,
        xaxis: { title: { text: "token", font: { size: 11 }, standoff: 6 }, range: [0, Math.max(40, longest * 1.01 + 1)] },
        yaxis: { title: { text: "z, smoothed", font: { size: 11 }, standoff: 6 }, range: [low - pad, high + pad] },
      });
      return { data, layout };
    }
  };

  // A figure from the server. Its value is JSON with `data` and `layout`; `palette` of a trace is an index of the palette.
  class Figure extends Throttled {
    constructor(node, read) {
      super(node);
      this.read = read;
      new ResizeObserver(() => this.draw()).observe(node);
    }

    figure() {
      const { data, layout } = JSON.parse(this.read());
      for (const trace of data) if (isNumber(trace.palette)) trace.line = { ...(trace.line || {}), color: T.palette(trace.palette) };
      return { data, layout: T.layout(layout) };
    }
  }

  T.figures = new Set();
  T.figure = (element, props, watch) => {
    const node = element.querySelector(".tw-figure");
    const figure = new Figure(node, () => props.value || '{"data":[],"layout":{}}');
    T.figures.add(figure);
    figure.draw();
    watch("value", () => figure.draw());
  };

  // Save the plot of a view as PNG, on the background of the page, with a title and a legend.
  T.savePlot = async (id) => {
    const view = [...T.views].find((candidate) => candidate.id === id);
    const Plotly = await T.plotly();
    const { data, layout } = view.plot.figure();
    const t = theme();
    const url = await Plotly.toImage(
      {
        data,
        layout: {
          ...layout,
          paper_bgcolor: t.ground,
          plot_bgcolor: t.ground,
          showlegend: true,
          legend: { orientation: "h", y: 1.08, yanchor: "bottom", x: 0 },
          title: { text: `${T.choice.trait}: z over tokens`, x: 0.02, font: { size: 16, color: t.strong } },
          margin: { l: 56, r: 20, t: 84, b: 48 },
        },
      },
      { format: "png", width: 1100, height: 480, scale: 2 },
    );
    T.saveUrl(url, "traitwatch-plot.png");
  };
})();
