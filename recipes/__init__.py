"""One file a recipe; `python -m recipes` lists them."""
