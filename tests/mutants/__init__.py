"""Wrong backwards, made from right ones by mechanical changes; see `tests.mutants.make`."""
