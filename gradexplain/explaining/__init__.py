"""One explanation: the stages of its making, the routes held against each other, what is said of them."""
