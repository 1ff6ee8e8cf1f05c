"""The virtual rat-liver study: slides and expression with known truth."""
