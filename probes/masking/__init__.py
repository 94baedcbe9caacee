"""What masks hide, where padding grows, and what can be seen of either all the same."""
