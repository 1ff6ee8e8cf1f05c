"""Losses, one subject a file.

Scalars whose mean over ranks is the loss of one process on the joined batch.
"""
