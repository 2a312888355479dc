"""From scores to the order that a user sees."""
