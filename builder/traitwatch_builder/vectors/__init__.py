"""From judged answers to a vector that can be trusted: extraction, verification, calibration.

Nothing here loads a model: a reader of `traitwatch_builder.reading` gives the states. The steps in
`traitwatch_builder.steps` call these modules in this order:

- `extract`: chooses the effective pairs and makes the three vectors of a trait. `evidence` adds up, along the way, what
  tells whether the vector reproduces: halves of the questions, and vectors from shuffled labels.
- `held_out`: reads answers that took no part in making the vector, into `projections`. `verify` makes statistics of
  them, layer by layer, and `verdict` says in words what the statistics mean.
- `calibrate`: the baseline of neutral answers, and the thresholds of spikes. `tails` estimates how high the rarest
  values go.
- `report_evidence`: the file that keeps what only the model can tell, for the report.
"""
