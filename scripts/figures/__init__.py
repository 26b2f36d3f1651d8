"""Measures and draws the figures of the documents.

- `python -m scripts.figures measure` measures once, on the embedded model, and writes docs/images/measured.json. It
  starts the demo's server (`served`) and reads the shipped answers (`reading`): some four minutes on two cores.
- `python -m scripts.figures draw` draws the SVGs from the measurements and the shipped cards (`plots`), and the
  pictures of the architecture (`diagrams`). It also writes docs/images/figures.json, the numbers of the texts
  (`numbers`).

`data` has the format of the measurements. Begin with `__main__`.
"""
