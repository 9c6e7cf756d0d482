"""What a recipe's source says about the fields of its `Config`: the comment after each field, and what it is for."""

from __future__ import annotations

import functools
import io
import linecache
import re
import sys
import tokenize

TITLE = re.compile(r"^# %% (.+)$", re.MULTILINE)
ALWAYS = {  # fields that several sections of a recipe read
    **dict.fromkeys(("size", "channels", "images", "labelled", "style", "style_size", "crop", "mirror"), "data"),
    "keep": "output",
    **dict.fromkeys(("seed", "patience", "loss", "labels", "joint", "prior", "prior_stddev"), "training"),
}
TRAINING = ("epochs", "learning_rate", "batch_size", "_weight", "_penalty")  # endings of names


def field_comments(kind: type) -> dict[str, str]:
    """Return the comment after each field of a dataclass, or {} if its source is not available."""
    found: dict[str, str] = {}
    field, fresh = "", True  # `fresh`: at the start of a statement
    block = re.search(rf"^class {kind.__name__}\b.*\n(?:[ \t].*\n|\n)*", _source(kind), re.MULTILINE)
    tokens = list(tokenize.generate_tokens(io.StringIO(block[0] if block else "").readline))
    for token, after in zip(tokens, tokens[1:], strict=False):
        if token.type == tokenize.COMMENT and field:
            found[field] = f"{found.get(field, '')} {token.string[1:].strip()}".lstrip()
        elif token.type == tokenize.NEWLINE:
            field, fresh = "", True
        elif token.type not in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.COMMENT):
            if fresh and token.type == tokenize.NAME and after.string == ":":
                field = token.string
            fresh = False
    return found


def field_groups(kind: type) -> dict[str, str]:
    """Return `data`, `network` or `training` for each field of a recipe's `Config` that the recipe reads.

    A field belongs to the first section of the recipe that reads it: `# %% Networks`, or the losses and the training,
    or what follows them, which is the data and the evaluation.
    """
    _, *parts = TITLE.split(_source(kind))
    sections = list(zip(parts[::2], parts[1::2], strict=True))
    if not any(title.startswith("Networks") for title, _ in sections):
        return {}
    groups: dict[str, str] = {}
    group = "data"
    for title, text in sections:
        if title.startswith(("Networks", "Loss", "Training", "Use", "A whole run")):
            group = "network" if title == "Networks" else "data" if title.startswith(("Use", "A ")) else "training"
        for name in re.findall(r"\bconfig\.(\w+)", text):
            groups.setdefault(name, group)
    for name in groups:
        groups[name] = ALWAYS.get(name, "training" if name.endswith(TRAINING) else groups[name])
    return groups


@functools.cache
def _source(kind: type) -> str:
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return "".join(linecache.getlines(file)) if file else ""
