"""What single operators of a training step do with what they are given."""
