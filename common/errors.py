"""The one exception that means "what you gave cannot be used", and text that is safe to print."""


class InputError(ValueError):
    """Raised for what a user gave: a file, a folder, a setting.

    The message is one line: what (with its path or value), what is wrong with it, and what would be right.
    The command line prints it and ends with exit status 2; a program that calls a recipe may catch ValueError.
    """

    def __init__(self, message: str = "") -> None:
        """Keep the message without control characters: it may hold the name of any file."""
        super().__init__(printable(message))


def printable(text: object) -> str:
    """Return `text` as one line that a terminal shows as it is.

    Line breaks, terminal escapes, characters that reverse the direction of writing, and bytes of a file's name that
    are no text become Python's escapes.
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text))


def first_line(error: BaseException, most: int = 120) -> str:
    """Return the first line of an exception's message, of at most `most` characters; its type where it has none."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:most]
