"""The files of a build.

- `workspace.py`: where each file of a trait is (`Workspace`), who may write it, and which steps are finished
  (`Manifest`).
- `answers.py`: answers files and `neutral.csv`, in the columns of the Persona Vectors authors' code.
- `tables.py`: CSV files of texts, plain or compressed.
- `scales.py`: tells scores of another scale than 0 to 100.
- `worklog.py`: answers and scores, stored one by one, so that an interrupted build goes on; and the fingerprints by
  which a build recognises a model, a file or an input.

Vectors and cards have their formats in the ground package: `traitwatch.vectors` and `traitwatch.card`. Begin with the
docstring of `workspace.py`, which lists all files.
"""
