"""What a score is worth: predictions tables, metrics with intervals, retrieval, comparison. No training
here.
"""
