// Functions of the whole page: keys, files to save, and the theme.
(() => {
  "use strict";
  const T = (window.Traitwatch = window.Traitwatch || {});

  T.saveUrl = (url, name) => {
    const link = document.createElement("a");
    link.href = url;
    link.download = name;
    document.body.append(link);
    link.click();
    link.remove();
  };

  // `file`: JSON with name, type and text, from export/export.py of the inspector.
  T.save = (file) => {
    if (!file) return;
    const { name, type, text } = JSON.parse(file);
    const url = URL.createObjectURL(new Blob([text], { type }));
    T.saveUrl(url, name);
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  };

  // Esc closes the tooltip of a token and stops the generation.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (T.tip && T.tip.of) T.tip.hide();
    const stop = [...document.querySelectorAll(".tw-stop")].find((button) => button.offsetParent !== null);
    if (stop) stop.click();
  });
  document.addEventListener("pointerdown", (event) => {
    if (T.tip && T.tip.of && !event.target.closest(".t, .tw-tip")) T.tip.hide();
  });

  document.addEventListener("DOMContentLoaded", () => {
    new MutationObserver(() => {
      if (T.repaint) T.repaint();
      for (const figure of T.figures || []) figure.draw();
    }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  });
})();
