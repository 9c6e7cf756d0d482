"""The small files that the project made itself; README.md says how."""
