"""What guidance does to actions: one module an analysis, reached by the table in `table`.

A module declares in `MEASURES` (subject) -> record, numbers as JSON has them, and in `PICTURES`
(record) -> figure, which reads nothing else. What is measured sees one state and the parameters of one
seed.
"""
