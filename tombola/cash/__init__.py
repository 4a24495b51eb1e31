"""What becomes of a trained ticket: a smaller, faster model, with proof that it computes the same."""
