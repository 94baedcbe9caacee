"""What a model remembers: recurrent states, attributes, and what decodes from them."""
