"""The process that makes the load: `vllm bench serve`, called again for every line that comes in.

`vllm bench serve` is the command's own parser and main function; the `vllm` command around them wants distribution
metadata that the CPU build does not have. The process stays up between loads because importing vLLM takes ten seconds
of both cores, which the servers under test would feel. A line in is a JSON list of arguments; a line out says `done`.
What the load generator prints goes to standard error.
"""

import json
import os
import sys

from vllm.entrypoints.cli.benchmark.serve import BenchmarkServingSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser


def main() -> None:
    """Serve loads until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    parser = FlexibleArgumentParser()
    BenchmarkServingSubcommand.add_cli_args(parser)
    for line in sys.stdin:
        BenchmarkServingSubcommand.cmd(parser.parse_args(json.loads(line)))
        sys.stdout.flush()
        answers.write("done\n")
        answers.flush()


if __name__ == "__main__":
    main()
