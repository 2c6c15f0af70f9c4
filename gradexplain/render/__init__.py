"""What the reader sees: each output format is one module that only reads an `Explanation`."""
