"""Finished runs: loaded, scored again, probed, and applied to new studies."""
