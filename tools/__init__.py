"""Tools that generate files of this project: bundled weights, gallery images, notebooks. No recipe needs them."""
