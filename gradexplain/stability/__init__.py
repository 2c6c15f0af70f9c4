"""Where digits go: an expression over a range, its digits in a dtype, and a rewrite that keeps them."""
