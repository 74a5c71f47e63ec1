"""The table of methods and the parts that its rows are made of."""
