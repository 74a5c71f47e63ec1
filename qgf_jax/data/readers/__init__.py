"""Readers of other people's datasets, a file each.

Each gives a `Recording`: what the source says of itself, and its episodes one after another.
`qgf convert FORMAT:PLACE` writes them in one layout. A format needs the library that owns it, as an
optional extra.
"""
