"""Networks in pure torch: bags of tiles, expression, fusion, heads.

No Lightning, no I/O but a tile encoder's checkpoint.
"""
