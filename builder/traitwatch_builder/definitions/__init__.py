"""Trait definitions: what a trait is, and how it is elicited.

- `definition.py`: the two JSON files of a trait, their checks, and reading and writing them.
- `define.py`: a new definition, written by Claude or pasted from another assistant.
- `elicitation.py`: the conversations that elicit a trait or its opposite, out of a definition.
- `trait_data_extract/`, `trait_data_eval/`: the shipped definitions. `neutral_prompts.json`: the shipped neutral
  prompts, for calibration.
- `define_prompt.md.j2`: the prompt that asks for a definition.

Begin with `TraitDefinition` in `definition.py`.
"""
