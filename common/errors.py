"""The one exception that means "what you gave cannot be used"."""


class InputError(ValueError):
    """Raised for what a user gave: a file, a folder, a setting.

    The message is one line: what (with its path or value), what is wrong with it, and what would be right.
    The command line prints it and ends with exit status 2; a program that calls a recipe may catch ValueError.
    """


def first_line(error: BaseException, most: int = 120) -> str:
    """Return the first line of an exception's message, of at most `most` characters; its type where it has none."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:most]
