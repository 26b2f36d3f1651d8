"""The commands of the builder: module `x` holds the click command `x_command`, which `traitwatch x` runs.

A command parses options, calls a step and prints the result; the work is done in the other packages. Modules of torch,
transformers and vLLM are imported inside the command, so that `--help` stays fast. `traitwatch/cli.py` has the list of
all commands.

- `build` runs the whole pipeline. Its stages are commands of their own: `define`, `respond`, `judge`, `extract`,
  `verify`, `calibrate`, `report`.
- `layers` ranks layers, `compare` compares vectors, `model` prints the path of the embedded model.
- `options` declares the options that several commands share.
"""
