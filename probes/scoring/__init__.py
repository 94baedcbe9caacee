"""Which output is scored against which label, and by which terms of the loss."""
