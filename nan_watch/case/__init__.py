"""A refused step as the causes see it: the symptom, its origin, and what can be tried on it."""
