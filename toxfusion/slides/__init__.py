"""From whole-slide images to tiles and features: readers, tissue, grid, encoders, pipeline. Training never imports it."""
