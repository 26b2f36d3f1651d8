"""Steers a model with its vector, to find out at which layer the trait is read best: `traitwatch layers`.

Begin with `step`, which connects the other modules.

- `model`: a model of transformers that adds a multiple of the vector to its residual stream while it answers.
- `answers`: the eval questions answered under every setting (a layer and a coefficient), and the judge's scores.
- `ranking`: ranks the layers by held-out AUC and by the effect of steering, and words the reason of the choice.
- `step`: plans or measures, ranks, and writes the choice into the card.
"""
