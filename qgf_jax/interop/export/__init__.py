"""A run's checkpoint as a file that programs without this package read."""
