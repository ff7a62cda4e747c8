"""The web page: `depth-anything app`."""
