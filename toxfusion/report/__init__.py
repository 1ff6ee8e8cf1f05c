"""The pages of an explanation, which open from disk."""
