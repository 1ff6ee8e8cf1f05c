"""What becomes a batch: expression, bags, sampling and loaders."""
