"""`python -m traitwatch`: the `traitwatch` command, for those who start it by an interpreter of their choice."""

from traitwatch.cli import main

if __name__ == "__main__":
    main()
