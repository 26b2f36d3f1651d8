"""Reads the hidden states of a model: mean states of texts at every layer, and projections of single tokens.

Begin with `states`: a `Span` is a text with the part of it that counts, a `Reading` is the result, and `StateReader` is
the protocol of an engine.

- `session`: one model for the time of a command; it loads the reader that the options ask for.
- `transformers_reader`: the reference engine. It also gives log-likelihoods to the likelihood judge.
- `vllm_reader`: the engine for models that are too large for one GPU. It starts vLLM with the worker class of
  `vllm_worker`, which adds the states up in `sums`.
- `prefixes`: the plan by which both engines read a beginning that several texts share only once.
"""
