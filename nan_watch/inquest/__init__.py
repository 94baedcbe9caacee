"""What is asked of a refused step, and how its finding is told."""
