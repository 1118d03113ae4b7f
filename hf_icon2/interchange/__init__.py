"""Directions in the files of others. Such a file holds one fixed steering and adds it at every position."""
