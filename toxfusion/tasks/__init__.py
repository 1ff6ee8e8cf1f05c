"""What is predicted: one file a kind of task."""
