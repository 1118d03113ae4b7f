"""Preference data the model makes by itself: instructions, their consistency, pairs, and checks of both."""
