"""Tables, plots, films and the page of a run."""
