"""Every reader of what a user can give reads or refuses whatever it gets (tests/support/fuzzing.py)."""
