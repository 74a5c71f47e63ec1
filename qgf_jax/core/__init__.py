"""Pure mathematics of one state and one action."""
