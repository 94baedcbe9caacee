"""A step that got no memory, and what filled it."""
