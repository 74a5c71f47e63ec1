"""What guidance does to actions: one module an analysis, reached by the table in `table`.

A module has `measure(subject) -> record`, numbers as JSON has them, and `draw(record) -> figure`, which
reads nothing else. What is measured sees one state and the parameters of one seed.
"""
