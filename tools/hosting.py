"""Where the project is published: the badges of notebooks and pages, and the address that notebooks install it from.

`REPOSITORY` is the only place with this address. To change it, edit it here, then run `python -m tools.notebooks` and
`python -m tools.pages`. As long as the project has no public address, `your_account` stands for the account: GitHub
accepts no account with this name, so that notebooks cannot install somebody else's code.
"""

from __future__ import annotations

REPOSITORY = "your_account/keras-image-cookbook"  # on GitHub
BRANCH = "main"
PACKAGE = f"https://github.com/{REPOSITORY}/archive/refs/heads/{BRANCH}.zip"  # what notebooks install with pip


def badges(name: str, assets: str) -> str:
    """Return two badges in Markdown, which open the notebook of a recipe on Colab and on Kaggle.

    Args:
        name: a recipe.
        assets: the path of docs/assets/ relative to the document.
    """
    path = f"{REPOSITORY}/blob/{BRANCH}/notebooks/{name}.ipynb"
    colab = f"https://colab.research.google.com/github/{path}"
    kaggle = f"https://kaggle.com/kernels/welcome?src=https://github.com/{path}"
    return f"[![Open in Colab]({assets}/colab.svg)]({colab}) [![Open in Kaggle]({assets}/kaggle.svg)]({kaggle})"
