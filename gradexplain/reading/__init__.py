"""From what people type or paste to a graph and its values.  Nothing that is read is executed."""
