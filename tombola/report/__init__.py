"""Results for people: text in the terminal, figures, a page."""
