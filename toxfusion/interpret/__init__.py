"""Pictures and explanations of finished runs."""
