"""A page as plain data (`model`), and plain data as JSON with its schema (`serialise`, `schema`)."""
