"""The figures of docs/explanation: measured once on the embedded model, drawn from what was measured.

`python -m scripts.figures measure` starts the demo's server and reads the shipped answers (some four minutes on two
cores); `python -m scripts.figures draw` makes the SVGs and docs/images/figures.json from that and the shipped cards.
"""
