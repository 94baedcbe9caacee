"""What is looked at in a few steps only: units of activations, arguments near an edge."""
