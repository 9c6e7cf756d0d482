"""A web page for trying out trained models: `python -m recipes app`."""
