"""From whole-slide images to tiles and features; training never imports it."""
