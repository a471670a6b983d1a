"""The command line's commands, one module each: ``add_parser`` declares the arguments, ``run`` does the work.

Only ``__main__`` imports these.
"""


class CommandError(Exception):
    """What ends a command with one line on stderr and an exit status, 2 for a wrong argument."""

    def __init__(self, message: object, status: int = 2) -> None:
        super().__init__(str(message))
        self.status = status
