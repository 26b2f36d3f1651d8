// A scored text while it grows in a view: tokens, projections, z, smoothed z and spikes by trait.
(() => {
  "use strict";
  const T = (window.Traitwatch = window.Traitwatch || {});
  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

  // `line`: the line of kind `answer` in the journal; `rule`: the line of kind `view`, with window and least.
  T.ScoredText = class {
    constructor(line, rule) {
      this.traits = line.traits;
      this.rule = rule;
      this.texts = [];
      this.spans = [];
      this.summaries = null;
      this.of = {};
      for (const trait of line.traits) {
        this.of[trait.name] = { trait, projections: [], z: [], smooth: [], level: 0, run: null, spikes: [], sum: 0, n: 0 };
      }
    }

    // Add projections of a trait from token `start` on.
    score(name, start, row) {
      const s = this.of[name];
      if (!s) return;
      const { mean, std, threshold } = s.trait;
      row.forEach((projection, k) => {
        const i = start + k;
        const z = isNumber(projection) && isNumber(mean) && isNumber(std) ? (projection - mean) / std : null;
        s.projections[i] = projection;
        s.z[i] = z;
        if (z === null) {
          s.smooth[i] = null;
          s.run = null;
          return;
        }
        s.sum += z;
        s.n += 1;
        s.max = s.n === 1 ? z : Math.max(s.max, z);
        s.level += (2 / (this.rule.window + 1)) * (z - s.level);
        s.smooth[i] = s.level;
        if (!isNumber(threshold) || s.level <= threshold) {
          s.run = null;
        } else if (s.run === null) {
          s.run = { start: i, end: i + 1 };
        } else {
          s.run.end = i + 1;
          if (s.run.end - s.run.start === this.rule.least) s.spikes.push(s.run);
        }
      });
    }

    // The summary of the whole text: from the server where it has sent one, else from the tokens so far.
    summary(name) {
      const sent = this.summaries && this.summaries[name];
      if (sent) return { z: sent.z, max: sent.max, spikes: sent.spikes.length };
      const s = this.of[name];
      return s && s.n ? { z: s.sum / s.n, max: s.max, spikes: s.spikes.length } : null;
    }
  };
})();
