"""Asking chat endpoints: many requests at a time, none lost and none paid for twice."""
