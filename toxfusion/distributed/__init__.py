"""Several processes as one: gathering with gradient, launching, and what a rank runs."""
