"""Baselines by scikit-learn and scikit-survival, behind the same predictions table."""
