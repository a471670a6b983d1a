"""The command line: ``nnkernels`` and ``python -m nnkernels``."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import nnkernels
from nnkernels.commands import CommandError, compare, convert, demo, gradcheck, info, train

INTERRUPTED = "nnkernels: interrupted"


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line: the usage is what ``--help`` is for."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2."""
        self.exit(2, f"nnkernels: error: {message} (see {self.prog} --help)\n")


def build_parser() -> Parser:
    """Return the parser of all commands; each leaves its function in ``run``."""
    parser = Parser(prog="nnkernels", description="Deep learning written as explicit loops.")
    parser.add_argument("--version", action="version", version=f"nnkernels {nnkernels.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    train.add_parser(commands)
    demo.add_parser(commands)
    compare.add_parser(commands)
    gradcheck.add_parser(commands)
    convert.add_parser(commands)
    info.add_parser(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 when the work failed, 2 for wrong arguments.

    An interrupt gives 130, a pipe whose reader has gone 141: 128 and the signal's number, as shells count.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    arguments.typed = sys.argv[1:] if argv is None else list(argv)
    if not hasattr(arguments, "run"):
        parser.print_help(sys.stderr)
        return 2
    sys.unraisablehook = interrupt_for_good
    try:
        arguments.run(arguments)
        sys.stdout.flush()
    except CommandError as error:
        return fail(str(error), error.status)
    except KeyboardInterrupt as interrupt:
        print(": ".join([INTERRUPTED, *map(str, interrupt.args)]), file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, a closed pager) has what it wanted. Python flushes stdout once more at exit, so
        # that must lead somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        return fail(str(error), 1)
    return 0


def interrupt_for_good(unraisable: "sys.UnraisableHookArgs") -> None:
    """End the process when Ctrl-C hits a callback of the compiler, where Python would ignore it."""
    if unraisable.exc_type is KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr, flush=True)
        os._exit(130)
    sys.__unraisablehook__(unraisable)


def fail(message: str, status: int) -> int:
    """Print one line on stderr and return ``status``."""
    print(f"nnkernels: error: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
