"""The one exception that means "what you gave cannot be used"."""


class InputError(ValueError):
    """Raised for what a user gave: a file, a folder, a setting.

    The message is one line: what (with its path or value), what is wrong with it, and what would be right.
    The command line prints it and ends with exit status 2; a program that calls a recipe may catch ValueError.
    """
