"""The page to play with what the recipes learn: `python -m recipes app`."""
