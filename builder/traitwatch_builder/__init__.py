"""The builder: from a trait's name to a persona vector that a server can serve.

A folder is a stage of the pipeline or a service to the stages. Each folder knows only the folders before it:

- `clients`, `models`: paid APIs and chat servers; the local model, its chat template and its engine.
- `definitions`: what a trait is. `storage`: where a build keeps its files.
- `reading`: hidden states of answers, read with transformers or vLLM.
- `answering`, `judging`, `vectors`: get answers, score them, make and test the vector.
- `steering`, `report`: answers under a steered model; the page and the tables about a vector.
- `steps.py`, `pipeline.py`: the steps of a build, and all steps in order. `commands`: the command line.

Begin with `pipeline.py`: `Build.run` is the whole way in a few lines. `progress.py` and `errors.py` serve all folders.
"""
