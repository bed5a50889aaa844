"""The one exception that people, not programs, read."""


class InputError(ValueError):
    """What the user gave cannot work.

    The message is one sentence: the value seen, why it cannot work, what to do. The command line prints it and exits
    with code 2; nothing was written and nothing lost.
    """
