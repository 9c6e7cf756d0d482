"""Code shared by the recipes: data, images, metrics, the training loop, run folders and the command line."""
