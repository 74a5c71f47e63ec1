"""Which episodes are played, playing them, and the statistics of what came out."""
