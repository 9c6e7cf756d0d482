"""Low-level helpers: atomic file writes, console output, options, locks, downloads, multi-machine training."""
