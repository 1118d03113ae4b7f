"""Loops that own models: candidates from a student, scores from a teacher, rounds."""
