"""Steps run again from the start, from a checkpoint, or up to the birth."""
