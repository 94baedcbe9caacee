"""Training steps of the subject's own, looked at from all sides and undone."""
