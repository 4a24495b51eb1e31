"""A search in loops of other libraries: each of their trainings is one level."""
