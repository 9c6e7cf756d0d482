"""What makes the project's own files: embedded weights, sample pictures, notebooks. No recipe needs it."""
