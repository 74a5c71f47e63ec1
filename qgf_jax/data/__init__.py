"""Data: from files to batches. This package owns time: chunks, n-step sums, bootstraps, padding."""
